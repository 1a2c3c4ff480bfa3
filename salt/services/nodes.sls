# What services need on every node that runs pods.
include:
  - services.metrics.node
