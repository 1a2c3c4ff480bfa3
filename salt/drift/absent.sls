# No checks by themselves; results and history stay, and `salt-run drift.check` works.
drift-timer-dead:
  units.dead:
    - name: saltberry-drift.timer
{% for unit in ['saltberry-drift.timer', 'saltberry-drift.service'] %}
drift-{{ unit }}-absent:
  file.absent:
    - name: /etc/systemd/system/{{ unit }}
    - require:
      - units: drift-timer-dead
{% endfor %}
