# What services need on every node that runs pods.
include:
  - services.registry.{{ 'node' if pillar['services']['registry']['enabled'] else 'node_absent' }}
  - services.metrics.node
