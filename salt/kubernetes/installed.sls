# Once a node is in the cluster its version is frozen here: versions change node by node with an
# upgrade, never with a highstate.
include:
  - kubernetes.repository

# What kubelet and kube-proxy call, and kubeadm's preflight asks for. Before the packages that
# depend on some of them, so that each run says itself what it brought.
kubernetes-tools:
  debs.installed:
    - packages: [cri-tools, kubernetes-cni, conntrack, ebtables, ethtool, iproute2, iptables, socat]
    - require:
      - sls: kubernetes.repository

kubernetes-packages:
  debs.installed:
    - packages: {{ salt['node.kubernetes_packages']() | json }}
    - hold: True
    - frozen: {{ salt['node.is_member']() }}
    - require:
      - sls: kubernetes.repository
