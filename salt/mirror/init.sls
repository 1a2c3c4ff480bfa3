# What nodes without internet install from, served to the rack and nobody else: packages and wheels
# by nginx on port 80, images by a registry on port 5000.
{%- set wanted = pillar['mirror']['enabled'] %}
include:
  {%- if wanted %}
  - mirror.files
  - mirror.registry
  {%- else %}
  - mirror.absent
  {%- endif %}
