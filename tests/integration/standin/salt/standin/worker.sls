include: [cni]

prepared:
  module.run:
    - container_storage.managed: []
