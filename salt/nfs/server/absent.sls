# Stop serving the share; what is on the disk stays, and stays mounted. Only on request.
nfs-server-dead:
  service.dead:
    - name: nfs-server
    - enable: False
    - onlyif:
      - fun: service.available
        name: nfs-server

nfs-exports-absent:
  file.absent:
    - name: /etc/exports.d/saltberry.exports
