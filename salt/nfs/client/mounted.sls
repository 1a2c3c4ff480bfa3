# Mounts that wait: with the storage node away this node boots and works, and a service tries again.
include:
  - nfs.client.installed
{% set mounts = salt['nfs.mounts']() %}
{%- for mount in mounts %}
nfs-mount-{{ mount.where }}:
  nfs.mounted:
    - name: {{ mount.where | json }}
    - what: {{ mount.what | json }}
    - unit: {{ mount.unit | json }}
    - require:
      - debs: nfs-client-packages
    - require_in:
      - systemd_mount: nfs-awaited
{% endfor %}
nfs-awaited:
  systemd_mount.awaited:
    - name: saltberry-share.service
    - description: Wait for the rack's share
    - mounts: {{ mounts | map(attribute='where') | list | json }}
