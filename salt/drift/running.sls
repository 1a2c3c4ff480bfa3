include:
  - drift.installed

drift-timer-running:
  service.running:
    - name: saltberry-drift.timer
    - enable: True
    - require:
      - sls: drift.installed
    - watch:
      - file: drift-saltberry-drift.timer
