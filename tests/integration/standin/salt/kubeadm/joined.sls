joined:
  module.run:
    - kubeadm.join: []
    - require_in: [{sls: cni}]
