# No kubelet, kubeadm and kubectl, and not where they come from. containerd stays, for docker uses it. Never part of
# a highstate. Only on request, on a node that has left the cluster and has no role in it any more:
#   salt pi-01 state.apply roles.worker.absent
#   salt pi-01 state.apply kubernetes.absent
{%- if salt['node.is_member']() %}
kubernetes-in-use:
  test.fail_without_changes:
    - name: this node is in the cluster; drain it, then apply roles.worker.absent
    - failhard: True
{%- endif %}
{%- set repo = salt['node.repository']() %}

kubernetes-packages-removed:
  debs.removed:
    - packages: [kubeadm, kubelet, kubectl, cri-tools, kubernetes-cni]

kubernetes-files-absent:
  file.absent:
    - names:
      - /etc/apt/sources.list.d/saltberry-kubernetes.sources
      - {{ repo.keyring }}
      - /etc/crictl.yaml
    - require:
      - debs: kubernetes-packages-removed
