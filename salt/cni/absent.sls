# Undo the pods' network; see roles/*/absent.sls.
cni-absent:
  routed_cni.absent: []

cni-leftovers-absent:
  cni.absent: []
