# InfluxDB with its collector, Grafana and metrics-server, as far as the pillar wants them. What measures
# each node is in node.sls.
services-metrics:
  manifests.applied:
    - name: metrics
    - source: salt://services/metrics/manifests.yaml
    - values: {{ salt['metrics.values']() | json }}
