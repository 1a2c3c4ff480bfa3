# Take this node out of the cluster. DESTRUCTIVE, never part of a highstate: every pod here ends,
# with its local data. Drain the node first, then, on purpose:
#   salt pi-01 state.apply roles.worker.absent
# Packages stay: the node may join again at once.
include:
  - kubeadm.absent
  - cni.absent
