# What holds data stays; see docs/services.md.
services-dashboard-absent:
  manifests.absent:
    - name: dashboard
