# The node's name is its minion id: kubeadm registers the node by it, the master finds it by it.
base-hostname:
  node.hostname:
    - name: {{ grains['id'] | json }}
