# kubelet, kubeadm and kubectl in the one version that the pillar names, held there.
include:
  - kubernetes.repository
  - kubernetes.installed
  - kubernetes.configured
