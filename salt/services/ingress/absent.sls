# What holds data stays; see docs/services.md.
services-ingress-absent:
  manifests.absent:
    - name: ingress
