# Copy this file to pillar/rack.sls and describe your rack. Everything not said here is as in
# pillar/defaults.sls; write only what differs. `salt-run rack.validate` reads it before any node does.
rack:
  name: berry
  network: 192.168.1.0/24
nodes:
  nfs1: {ip: 192.168.1.10, roles: [storage, master]}
  cp1: {ip: 192.168.1.11, roles: [control_plane]}
  pi-01: {ip: 192.168.1.21}  # no roles: a worker
  pi-02: {ip: 192.168.1.22}
# A Pi that joins without being named here is a worker too.
