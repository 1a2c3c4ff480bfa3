# Debian's node exporter, on the node's own address in the rack and with the few collectors that the
# boards show. What it is told is written first: the package starts it at once.
metrics-exporter-config:
  file.managed:
    - name: /etc/default/prometheus-node-exporter
    - mode: '0644'
    - contents: |
        # Written by Salt (salt/services/metrics).
        ARGS="{{ salt['metrics.exporter_arguments']() | join(' ') }}"

# At boot the address may come after the exporter: it tries until it is there.
metrics-exporter-patience:
  file.managed:
    - name: /etc/systemd/system/prometheus-node-exporter.service.d/saltberry.conf
    - mode: '0644'
    - makedirs: True
    - contents: |
        # Written by Salt (salt/services/metrics).
        [Unit]
        Wants=network-online.target
        After=network-online.target
        StartLimitIntervalSec=0

        [Service]
        Restart=always
        RestartSec=5

metrics-exporter-package:
  debs.installed:
    - packages: [prometheus-node-exporter]
    - require:
      - file: metrics-exporter-config

# Drift may have made it before there was anybody to read it.
metrics-exporter-folder:
  file.directory:
    - name: {{ salt['metrics.text_folder']() }}
    - makedirs: True
    - mode: '0755'
    - require:
      - debs: metrics-exporter-package

metrics-exporter-unit-read:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: metrics-exporter-patience

metrics-exporter-running:
  service.running:
    - name: prometheus-node-exporter
    - enable: True
    - require:
      - file: metrics-exporter-folder
      - module: metrics-exporter-unit-read
    - watch:
      - file: metrics-exporter-config
      - file: metrics-exporter-patience
