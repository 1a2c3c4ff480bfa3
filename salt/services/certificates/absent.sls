# What holds data stays; see docs/services.md.
services-certificates-absent:
  manifests.absent:
    - name: certificates
