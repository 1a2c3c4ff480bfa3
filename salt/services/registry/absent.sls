# The images stay: they are the volume's. See docs/services.md.
include:
  - services.registry.not_collected

services-registry-absent:
  manifests.absent:
    - name: registry
