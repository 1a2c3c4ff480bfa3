# The timer leaves a mark on the volume and has the pod start anew, which then collects before it serves:
# nobody can push meanwhile, and a push that this cut off failed, so that it is done again.
{%- set when = pillar['services']['registry']['collect'] %}
{%- if when %}
services-registry-collect-service:
  file.managed:
    - name: /etc/systemd/system/saltberry-registry-collect.service
    - mode: '0644'
    - contents: |
        # Written by Salt (salt/services/registry).
        [Unit]
        Description=Delete what no image in the rack's registry needs any more
        ConditionPathExists=/etc/kubernetes/admin.conf
        [Service]
        Type=oneshot
        Environment=KUBECONFIG=/etc/kubernetes/admin.conf
        ExecStart=/usr/bin/kubectl -n registry exec deployment/registry -c registry -- touch /var/lib/registry/.collect
        ExecStart=/usr/bin/kubectl -n registry rollout restart deployment/registry
        ExecStart=/usr/bin/kubectl -n registry rollout status deployment/registry --timeout=2h
        TimeoutStartSec=2h

services-registry-collect-timer:
  file.managed:
    - name: /etc/systemd/system/saltberry-registry-collect.timer
    - mode: '0644'
    - contents: |
        # Written by Salt, from the pillar's services.registry.collect
        [Unit]
        Description=Delete what no image in the rack's registry needs any more
        [Timer]
        OnCalendar={{ when }}
        RandomizedDelaySec=15min
        Persistent=true
        [Install]
        WantedBy=timers.target

services-registry-collect-units-read:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: services-registry-collect-timer
      - file: services-registry-collect-service

services-registry-collected:
  service.running:
    - name: saltberry-registry-collect.timer
    - enable: True
    - require:
      - module: services-registry-collect-units-read
    - watch:
      - file: services-registry-collect-timer
      - file: services-registry-collect-service
{%- else %}
include:
  - services.registry.not_collected
{%- endif %}
