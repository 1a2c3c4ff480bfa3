# The storage node's side of the share: the disk, a folder for each node, the exports.
{%- set why_not = salt['nfs.why_not']('server') %}
include:
  - nfs.server.disk
  - nfs.server.folders
  {%- if not why_not %}
  - nfs.server.installed
  - nfs.server.configured
  - nfs.server.running
  {%- endif %}
{%- if why_not %}

nfs-server-not-here:
  test.show_notification:
    - text: {{ ("nothing is exported: " ~ why_not) | json }}
{%- endif %}
