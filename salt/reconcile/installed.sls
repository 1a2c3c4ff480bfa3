{%- set units = ['saltberry-reconcile.service', 'saltberry-reconcile.path', 'saltberry-reconcile.timer'] %}
{%- for unit in units %}
reconcile-{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://reconcile/files/{{ unit }}.jinja
    - template: jinja
    - mode: '0644'
    - context:
        sweep_minutes: {{ pillar['reconcile']['sweep_minutes'] | json }}
{% endfor %}
# Salt reads changed units again only when it starts one; nothing ever starts the service by name.
reconcile-units-read:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      {%- for unit in units %}
      - file: reconcile-{{ unit }}
      {%- endfor %}
