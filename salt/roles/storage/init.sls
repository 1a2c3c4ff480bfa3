# The node with the disk: the share, and the mirror that the others install from. No Kubernetes node,
# so of base only what makes it findable.
include:
  - base.hostname
  - base.hosts
  - system
  - firewall
  - nfs.server
  - mirror
  - services.metrics.node
  - helm.mirror
  - salt_minion
