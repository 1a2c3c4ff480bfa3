include:
  - reconcile.installed

{%- for unit in ['saltberry-reconcile.path', 'saltberry-reconcile.timer'] %}
reconcile-{{ unit }}-running:
  service.running:
    - name: {{ unit }}
    - enable: True
    - require:
      - sls: reconcile.installed
    - watch:
      - file: reconcile-{{ unit }}
{% endfor %}
