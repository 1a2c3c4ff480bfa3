{%- set needed = salt['nfs.why_not']('client') == '' %}
{%- if needed %}
include:
  - nfs.v4_only
{%- endif %}

# rsync and e2fsprogs are for container storage, whatever the share.
nfs-client-packages:
  debs.installed:
    - packages: {{ (['nfs-common'] if needed else []) + ['e2fsprogs', 'rsync'] }}
    {%- if needed %}
    - require:
      - sls: nfs.v4_only
    {%- endif %}
