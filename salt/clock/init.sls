# The right time, before TLS and tokens need it; a Pi has no battery clock.
{%- set system = salt['node.system']() %}
{%- if system.timezone %}
clock-zones:
  debs.installed:
    - packages: [tzdata]

clock-timezone:
  clock.timezone:
    - name: {{ system.timezone | json }}
    - require:
      - debs: clock-zones
{%- endif %}
{%- if salt['clock.daemon']() == 'timesyncd' %}

clock-package:
  debs.installed:
    - packages: [systemd-timesyncd]
    - require_in:
      - clock: clock-followed
{%- endif %}

clock-followed:
  clock.followed:
    - servers: {{ system.ntp_servers | json }}
