# Nothing is measured. The package stays: it may be the user's, and so may the exporter that runs, when there
# is nothing of ours in its way of starting.
{%- set ours = '/etc/systemd/system/prometheus-node-exporter.service.d/saltberry.conf' %}
metrics-exporter-dead:
  units.dead:
    - name: prometheus-node-exporter.service
    - ours: {{ ours }}

metrics-exporter-patience-absent:
  file.absent:
    - name: {{ ours }}
    - require:
      - units: metrics-exporter-dead

metrics-throttled-dead:
  units.dead:
    - name: saltberry-throttled.timer
{% for path in [
      '/etc/systemd/system/saltberry-throttled.timer', '/etc/systemd/system/saltberry-throttled.service',
      '/usr/local/sbin/saltberry-throttled', salt['metrics.text_folder']() ~ '/saltberry-throttled.prom'] %}
metrics-{{ path }}-absent:
  file.absent:
    - name: {{ path }}
    - require:
      - units: metrics-throttled-dead
{% endfor %}
