# The node's name is its minion id: kubeadm registers the node by it, the master finds it by it.
base-hostname:
  node.hostname:
    - name: {{ grains['id'] | json }}

# cloud-init sets it anew at every boot, and /etc/hosts too; NetworkManager takes what DHCP says.
base-name-kept:
  node.name_kept: []
