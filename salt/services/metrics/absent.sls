# What holds data stays; see docs/services.md.
services-metrics-absent:
  manifests.absent:
    - name: metrics
