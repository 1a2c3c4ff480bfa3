# The pods' network, by the name that the pillar gives.
include:
  - cni.chosen
  - cni.{{ pillar['kubernetes']['cni'] }}
