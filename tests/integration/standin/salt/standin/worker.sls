include:
  {%- if pillar.get('kubeadm_ticket') %}
  - kubeadm.joined
  {%- endif %}
  - cni

prepared:
  module.run:
    - container_storage.managed: []
    - require_in: [{sls: cni}{% if pillar.get('kubeadm_ticket') %}, {sls: kubeadm.joined}{% endif %}]
