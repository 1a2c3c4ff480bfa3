# What measures a node, on each of them, with pods or without (docs/services/metrics.md).
include:
  {%- if pillar['services']['metrics']['enabled'] %}
  - services.metrics.exporter
  - services.metrics.throttling
  {%- else %}
  - services.metrics.node_absent
  {%- endif %}
