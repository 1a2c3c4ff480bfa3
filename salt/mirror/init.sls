# What nodes without internet install from, served to the rack and nobody else: packages and wheels
# by nginx on port 80, images by a registry on port 5000, those of registries outside on port 5002.
{%- set wanted = pillar['mirror']['enabled'] %}
include:
  {%- if wanted %}
  - mirror.files
  - mirror.registry
  {%- if pillar['mirror']['pull_through'] %}
  - mirror.pull_through
  {%- else %}
  - mirror.pull_through_absent
  {%- endif %}
  {%- else %}
  - mirror.absent
  {%- endif %}
