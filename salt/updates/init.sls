# Security updates that install themselves, by Debian's own timers. A node is never rebooted by them
# (reconcile does that, one node at a time), and neither Kubernetes nor an engine is touched: their
# restart stops what runs on the node.
{%- if salt['node.system']().security_updates %}
updates-packages:
  debs.installed:
    - packages: [unattended-upgrades]

updates-config:
  file.managed:
    - name: /etc/apt/apt.conf.d/60saltberry-updates
    - source: salt://updates/files/saltberry-updates
    - mode: '0644'
    - require:
      - debs: updates-packages

updates-timers:
  service.running:
    - names: [apt-daily.timer, apt-daily-upgrade.timer]
    - enable: True
    - require:
      - file: updates-config
{%- else %}
include:
  - updates.absent
{%- endif %}
