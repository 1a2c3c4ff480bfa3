# As the distribution has it.
updates-config-absent:
  file.absent:
    - name: /etc/apt/apt.conf.d/60saltberry-updates
