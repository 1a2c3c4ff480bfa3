# The pods' network, by the name that the pillar gives.
include:
  - cni.{{ pillar['kubernetes']['cni'] }}
