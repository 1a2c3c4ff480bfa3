# The node that runs the API server, the controllers and etcd.
include:
  - base
  - containerd
  - kubernetes
  - kubeadm.initialized
  - cni
  - salt_minion
