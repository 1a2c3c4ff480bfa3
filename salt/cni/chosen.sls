# A cluster keeps the pod network that it was made with: another one is refused, before anything is touched.
# On a node that is in no cluster, what an earlier life left goes.
cni-chosen:
  cni.chosen:
    - name: {{ pillar['kubernetes']['cni'] }}
