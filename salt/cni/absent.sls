# Undo the pods' network; see roles/*/absent.sls.
cni-absent:
  routed_cni.absent: []
