# kubeadm reset. Ends every pod on this node; see roles/*/absent.sls.
kubeadm-absent:
  node.left_cluster:
    - name: {{ pillar['rack']['name'] | json }}
