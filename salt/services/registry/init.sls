# The rack's own registry. What each node needs for localhost:5000 is in node.sls.
include:
  - services.registry.collected

services-registry:
  manifests.applied:
    - name: registry
    - source: salt://services/registry/manifests.yaml
    - values: {{ salt['rack_registry.values']() | json }}

{%- if pillar['services']['registry']['lan']['enabled'] %}

services-registry-lan:
  rack_registry.lan_certified:
    - name: registry
    - require:
      - manifests: services-registry
{%- endif %}
