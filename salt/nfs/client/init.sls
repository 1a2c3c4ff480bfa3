# The other nodes' side of the share: this node's own folder, and the volumes that all share.
{%- set why_not = salt['nfs.why_not']('client') %}
include:
  - nfs.client.installed
  {%- if not why_not %}
  - nfs.client.mounted
  {%- endif %}
{%- if why_not %}

nfs-client-not-here:
  test.show_notification:
    - text: {{ ("the share is not mounted: " ~ why_not) | json }}
{%- endif %}
