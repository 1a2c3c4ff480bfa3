# The node that runs the salt-master, decides about the rack and has the admin's kubeconfig.
include:
  - base.hostname
  - base.hosts
  - system
  - firewall
  - salt_master
  - reconcile
  - drift
  - page
  - kubeconfig
  - services.metrics.node
  - salt_minion
