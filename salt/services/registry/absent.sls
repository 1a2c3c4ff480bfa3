# What holds data stays; see docs/services.md.
services-registry-absent:
  manifests.absent:
    - name: registry
