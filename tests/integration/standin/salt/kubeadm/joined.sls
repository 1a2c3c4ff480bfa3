joined:
  module.run:
    - kubeadm.join: []
