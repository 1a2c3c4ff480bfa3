# A node that runs pods.
include:
  - base
  - containerd
  - kubernetes
  - kubeadm.joined
  - cni
  - salt_minion
