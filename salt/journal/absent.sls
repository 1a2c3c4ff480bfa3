# As the image has it; journald follows at its next start.
journal-config-absent:
  file.absent:
    - name: /etc/systemd/journald.conf.d/90-saltberry.conf
