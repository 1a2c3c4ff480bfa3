# The rack's share, on whichever side of it this node is.
{%- set node = salt['nfs.storage_node']() %}
include:
  {%- if node and node.id == grains['id'] %}
  - nfs.server
  {%- else %}
  - nfs.client
  {%- endif %}
