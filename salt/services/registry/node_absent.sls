services-registry-not-listening:
  units.dead:
    - name: saltberry-registry.socket

services-registry-proxy-dead:
  units.dead:
    - name: saltberry-registry.service

services-registry-node-absent:
  file.absent:
    - names:
      - /etc/systemd/system/saltberry-registry.socket
      - /etc/systemd/system/saltberry-registry.service
      - /etc/containerd/certs.d/localhost:{{ pillar['services']['registry']['port'] }}
    - require:
      - units: services-registry-not-listening
      - units: services-registry-proxy-dead
