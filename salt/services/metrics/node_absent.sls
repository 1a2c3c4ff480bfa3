# Nothing is measured. The package stays: another Prometheus may read from it, and it is the user's again.
metrics-exporter-dead:
  units.dead:
    - name: prometheus-node-exporter.service

metrics-throttled-dead:
  units.dead:
    - name: saltberry-throttled.timer
