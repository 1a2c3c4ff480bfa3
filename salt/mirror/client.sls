# Debian's packages from the rack's mirror, if the pillar says so: apt asks the mirror for the very addresses
# of its sources, which stay as they are, and checks the distribution's own signatures.
{%- set node = salt['nfs.storage_node']() %}
{%- if pillar['mirror']['packages'] and node and node.id != grains['id'] %}
mirror-client:
  file.managed:
    - name: /etc/apt/apt.conf.d/90saltberry-mirror
    - mode: '0644'
    - contents: |
        // Written by Salt (pillar mirror.packages).
        Acquire::http::Proxy "http://{{ node.ip }}:3142";
        Acquire::http::Proxy::{{ node.ip }} "DIRECT";
        // What was fetched once and signed is served for as long as the rack has no internet.
        Acquire::Check-Valid-Until "false";
{%- else %}
mirror-client-absent:
  file.absent:
    - name: /etc/apt/apt.conf.d/90saltberry-mirror
{%- endif %}
