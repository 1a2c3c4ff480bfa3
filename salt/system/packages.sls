{%- set system = salt['node.system']() %}
{%- if system.packages %}
system-packages:
  debs.installed:
    - packages: {{ system.packages | json }}
{%- else %}
{}
{%- endif %}
