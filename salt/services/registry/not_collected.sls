services-registry-not-collected:
  units.dead:
    - name: saltberry-registry-collect.timer

services-registry-collect-absent:
  file.absent:
    - names:
      - /etc/systemd/system/saltberry-registry-collect.timer
      - /etc/systemd/system/saltberry-registry-collect.service
    - require:
      - units: services-registry-not-collected
