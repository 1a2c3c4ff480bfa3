# Before the package, so that its first start has it. Only these keys; data-root and what else is
# there stays as it is.
docker-config:
  docker_daemon.configured:
    - name: /etc/docker/daemon.json
    - log_max_size: {{ pillar['docker']['log_max_size'] | json }}
    - log_max_file: {{ pillar['docker']['log_max_file'] | json }}
