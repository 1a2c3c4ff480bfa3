# The page is a file, made anew every few minutes and after each check.
{%- set units = ['saltberry-page.service', 'saltberry-page.timer'] %}
{%- for unit in units %}
page-{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://page/files/{{ unit }}.jinja
    - template: jinja
    - mode: '0644'
    - context:
        every_minutes: {{ pillar['page']['every_minutes'] | json }}
{% endfor %}
page-units-read:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      {%- for unit in units %}
      - file: page-{{ unit }}
      {%- endfor %}

page-timer-running:
  service.running:
    - name: saltberry-page.timer
    - enable: True
    - require:
      - module: page-units-read
    - watch:
      - file: page-saltberry-page.timer
