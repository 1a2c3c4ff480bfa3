# What nobody uses any more goes by itself, instead of by a command that somebody has to remember.
{%- set days = pillar['docker']['prune_days'] %}
{%- if days %}
docker-prune-service:
  file.managed:
    - name: /etc/systemd/system/saltberry-docker-prune.service
    - contents: |
        # Written by Salt, from the pillar's docker.prune_days
        [Unit]
        Description=Remove what docker has not used for {{ days }} days
        ConditionPathExists=/usr/bin/docker
        After=docker.service
        [Service]
        Type=oneshot
        Nice=19
        ExecStart=/usr/bin/docker system prune --force --filter until={{ days * 24 }}h
    - mode: '0644'

docker-prune-timer:
  file.managed:
    - name: /etc/systemd/system/saltberry-docker-prune.timer
    - contents: |
        # Written by Salt, from the pillar's docker.prune_days
        [Unit]
        Description=Remove what docker has not used for {{ days }} days, weekly
        [Timer]
        OnCalendar=weekly
        RandomizedDelaySec=6h
        Persistent=true
        [Install]
        WantedBy=timers.target
    - mode: '0644'

docker-prune-running:
  service.running:
    - name: saltberry-docker-prune.timer
    - enable: True
    - watch:
      - file: docker-prune-timer
      - file: docker-prune-service
{%- else %}
docker-prune-dead:
  units.dead:
    - name: saltberry-docker-prune.timer

docker-prune-absent:
  file.absent:
    - names:
      - /etc/systemd/system/saltberry-docker-prune.timer
      - /etc/systemd/system/saltberry-docker-prune.service
    - require:
      - units: docker-prune-dead
{%- endif %}
