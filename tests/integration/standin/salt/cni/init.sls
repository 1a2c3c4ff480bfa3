laid:
  module.run:
    - routed_cni.lay: []
