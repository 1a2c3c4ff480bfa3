# flannel: what it needs of each node's kernel, and, from the control plane, its DaemonSet. The nodes' CNI
# configuration is written by its pods, which come as soon as a node has joined.
include:
  - cni.chosen
{%- if pillar['kubernetes']['flannel']['backend'] == 'vxlan' %}

cni-flannel-modules:
  node.kernel_modules:
    - name: /etc/modules-load.d/saltberry-flannel.conf
    - modules: [vxlan]
    - require:
      - cni: cni-chosen
{%- endif %}
{%- if 'control_plane' in pillar.get('node', {}).get('roles', []) %}

# Nobody is waited for but this node: without a pod network it never becomes Ready, and a Pi that is off
# is no fault of flannel.
cni-flannel-applied:
  manifests.applied:
    - name: flannel
    - source: salt://cni/files/flannel.yaml
    - values: {{ salt['cni.flannel_values']() | json }}
    - timeout: 0
    - require:
      - cni: cni-chosen

cni-flannel-here:
  cni.here:
    - name: flannel
    - require:
      - manifests: cni-flannel-applied
{%- endif %}
