# kubeadm tells kubelet once, at the join; from then on this keeps it told the same, and what the
# pillar has changed since.
kubelet-settings:
  kubelet.configured: []
