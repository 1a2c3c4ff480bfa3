# A node that hangs is reset by its hardware; in a container that would be the host's.
{%- set seconds = salt['node.system']().watchdog_seconds %}
{%- if seconds and salt['node.watchdog']() %}
watchdog-config:
  file.managed:
    - name: /etc/systemd/system.conf.d/90-saltberry-watchdog.conf
    - contents: |
        # Written by Salt, from the pillar's system.watchdog_seconds
        [Manager]
        RuntimeWatchdogSec={{ seconds }}
    - makedirs: True
    - mode: '0644'
{%- else %}
watchdog-config:
  file.absent:
    - name: /etc/systemd/system.conf.d/90-saltberry-watchdog.conf
{%- endif %}

# systemd takes its own settings anew at a reload.
watchdog-config-read:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: watchdog-config
