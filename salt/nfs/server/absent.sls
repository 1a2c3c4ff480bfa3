# Stop serving the share; what is on the disk stays, and stays mounted. Only on request.
nfs-server-dead:
  units.dead:
    - name: nfs-server

nfs-exports-absent:
  file.absent:
    - name: /etc/exports.d/saltberry.exports
