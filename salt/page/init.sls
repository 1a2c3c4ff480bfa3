# The rack as a web page (docs/drift.md). Off unless the pillar says who may see it.
include:
  {%- if pillar['page']['enabled'] %}
  - page.made
  - page.served
  {%- else %}
  - page.absent
  {%- endif %}
