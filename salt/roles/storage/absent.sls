# Stop serving mirror and share; what is on the disk stays. Only on request:
#   salt nfs1 state.apply roles.storage.absent
include:
  - mirror.absent
  - nfs.server.absent
