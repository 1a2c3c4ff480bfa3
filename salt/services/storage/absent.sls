# What holds data stays; see docs/services.md.
services-storage-absent:
  manifests.absent:
    - name: storage
