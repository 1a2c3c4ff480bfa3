# A bridge on each node and routes between the nodes, no daemon. Applied again by the master when
# nodes have come or gone; on a node that is in no cluster there is nothing to do.
include:
  - cni.chosen

cni-routed:
  routed_cni.configured:
    - pod_network: {{ pillar['kubernetes']['pod_network'] | json }}
    - nodes: {{ pillar.get('cluster', {}).get('nodes', {}) | json }}
    - require:
      - cni: cni-chosen
