# Nothing is pulled through this node. What was stays on the disk.
{%- from 'mirror/pull_through.jinja' import ended, units with context %}
{{- ended([]) }}
{%- for unit in units %}
{{ unit }}-unit-absent:
  file.absent:
    - name: /etc/systemd/system/{{ unit }}@.service
    {%- for host in salt['pull_through.left']() %}
    {%- if loop.first %}
    - require:
    {%- endif %}
      - units: {{ unit }}-{{ host }}-dead
    {%- endfor %}
{% endfor %}
saltberry-pull-through-nginx-site-absent:
  file.absent:
    - name: /etc/nginx/conf.d/saltberry-pull-through.conf

saltberry-pull-through-nginx-without-it:
  module.run:
    - service.reload: [{name: nginx}]
    - onchanges:
      - file: saltberry-pull-through-nginx-site-absent
