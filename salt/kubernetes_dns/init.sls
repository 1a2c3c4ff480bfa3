# The cluster's DNS, in the configuration that kubeadm made; from the control plane.
{%- if pillar['kubernetes']['dns'] and 'control_plane' in pillar.get('node', {}).get('roles', []) %}
kubernetes-dns:
  coredns.configured: []
{%- else %}
{}
{%- endif %}
