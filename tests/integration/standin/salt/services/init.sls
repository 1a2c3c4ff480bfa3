brought:
  module.run:
    - manifests.bring: []
