# What may come in to a node (docs/node-preparation.md). Off unless the pillar asks for it.
include:
  {%- if salt['firewall.settings']().enabled %}
  - firewall.running
  {%- else %}
  - firewall.absent
  {%- endif %}
