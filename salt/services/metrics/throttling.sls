# Whether the Pi gets too little power or is too hot, which only its firmware knows: a timer writes it
# where the node exporter reads. Only on a Pi.
{%- set source = salt['metrics.throttled_file']() %}
{%- if source %}
include:
  - services.metrics.exporter

metrics-throttled-program:
  file.managed:
    - name: /usr/local/sbin/saltberry-throttled
    - source: salt://services/metrics/files/saltberry-throttled
    - mode: '0755'

{% for unit in ['saltberry-throttled.service', 'saltberry-throttled.timer'] %}
metrics-{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://services/metrics/files/{{ unit }}.jinja
    - template: jinja
    - mode: '0644'
    - context:
        source: {{ source | json }}
        folder: {{ salt['metrics.text_folder']() | json }}
        seconds: {{ pillar['services']['metrics']['interval'] }}
{% endfor %}
metrics-throttled-units-read:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: metrics-saltberry-throttled.service
      - file: metrics-saltberry-throttled.timer

metrics-throttled-running:
  service.running:
    - name: saltberry-throttled.timer
    - enable: True
    - require:
      - sls: services.metrics.exporter
      - file: metrics-throttled-program
      - module: metrics-throttled-units-read
    - watch:
      - file: metrics-saltberry-throttled.timer
{%- else %}
{}
{%- endif %}
