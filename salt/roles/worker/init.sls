# A node that runs pods.
include:
  # Where packages come from, before any is installed
  - mirror.client
  - base
  # The engines' disk before the engines, their data where it belongs before they are used.
  - nfs.client
  - container_storage.mounted
  - containerd.installed
  {%- if pillar['docker']['enabled'] %}
  - docker.configured
  - docker.installed
  {%- endif %}
  - containerd.configured
  - container_storage
  - containerd
  {%- if pillar['docker']['enabled'] %}
  - docker
  {%- endif %}
  # After docker: people may be in its group.
  - system
  - firewall
  - cni.chosen
  - kubernetes
  - kubeadm.joined
  - cni
  # After the join, which writes what it keeps.
  - kubelet
  - services.nodes
  - salt_minion
