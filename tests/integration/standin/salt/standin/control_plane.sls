initialized:
  module.run:
    - kubeadm.init: []
