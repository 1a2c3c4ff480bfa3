# localhost:5000 on this node leads to the registry, wherever its pod is. systemd listens, and starts the
# go-between at the first connection; it ends when nobody has used it for a while.
{%- set port = pillar['services']['registry']['port'] %}
services-registry-socket:
  file.managed:
    - name: /etc/systemd/system/saltberry-registry.socket
    - mode: '0644'
    - contents: |
        # Written by Salt (salt/services/registry).
        [Unit]
        Description=The rack's registry on localhost
        [Socket]
        ListenStream=127.0.0.1:{{ port }}
        [Install]
        WantedBy=sockets.target

services-registry-proxy:
  file.managed:
    - name: /etc/systemd/system/saltberry-registry.service
    - mode: '0644'
    - contents: |
        # Written by Salt (salt/services/registry).
        [Unit]
        Description=The way from localhost to the rack's registry
        Requires=saltberry-registry.socket
        After=saltberry-registry.socket
        [Service]
        ExecStart=/usr/lib/systemd/systemd-socket-proxyd --exit-idle-time=5min {{ salt['rack_registry.address']() }}:5000
        DynamicUser=yes
        NoNewPrivileges=yes
        ProtectSystem=strict
        ProtectHome=yes
        RestrictAddressFamilies=AF_UNIX AF_INET
        MemoryMax=64M

# Before the socket is started: systemd refuses one whose service it does not know.
services-registry-units-read:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: services-registry-socket
      - file: services-registry-proxy

services-registry-listening:
  service.running:
    - name: saltberry-registry.socket
    - enable: True
    - require:
      - module: services-registry-units-read
    - watch:
      - file: services-registry-socket

# A go-between with the address of before would go on until it idles.
services-registry-proxy-renewed:
  service.dead:
    - name: saltberry-registry.service
    - onchanges:
      - file: services-registry-proxy

# docker takes localhost for what it is by itself.
services-registry-containerd:
  file.managed:
    - name: /etc/containerd/certs.d/localhost:{{ port }}/hosts.toml
    - mode: '0644'
    - makedirs: True
    - contents: |
        # Written by Salt (salt/services/registry).
        server = "http://localhost:{{ port }}"

        [host."http://localhost:{{ port }}"]
          capabilities = ["pull", "resolve"]
