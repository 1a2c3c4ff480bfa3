{%- set units = ['saltberry-drift.service', 'saltberry-drift.timer'] %}
{%- for unit in units %}
drift-{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://drift/files/{{ unit }}.jinja
    - template: jinja
    - mode: '0644'
    - context:
        every_minutes: {{ pillar['drift']['every_minutes'] | json }}
        page: {{ pillar['page']['enabled'] | json }}
{% endfor %}
# Salt reads changed units again only when it starts one; nothing ever starts the service by name.
drift-units-read:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      {%- for unit in units %}
      - file: drift-{{ unit }}
      {%- endfor %}
