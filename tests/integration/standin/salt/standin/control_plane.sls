include: [cni]

initialized:
  module.run:
    - kubeadm.init: []
    - require_in: [{sls: cni}]
