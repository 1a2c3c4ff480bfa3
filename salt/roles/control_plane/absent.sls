# Undo kubeadm init. DESTRUCTIVE, never part of a highstate: with the only control plane goes its
# etcd, which is the whole cluster. Only on purpose:
#   salt cp1 state.apply roles.control_plane.absent
include:
  - kubeadm.absent
  - cni.absent
