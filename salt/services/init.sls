# What runs in the cluster, by name as under services in the pillar; applied from the control plane.
#
# Not before the master knows the cluster: in the highstate that makes it, no node could run them yet, and
# their failure would hold up the rack. The master applies this when the rack is there.
{%- if pillar.get('cluster', {}).get('nodes') %}
include:
  {%- for name, settings in pillar['services'].items() %}
  - services.{{ name }}{{ '' if settings['enabled'] else '.absent' }}
  {%- endfor %}
{%- else %}
{}
{%- endif %}
