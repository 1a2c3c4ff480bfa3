# No docker; images, containers and volumes stay on the disk, and kubelet's containerd is left alone. Never part
# of a highstate, for people's containers end. Only on request, with docker.enabled false in the pillar:
#   salt pi-01 state.apply docker.absent
{%- if pillar['docker']['enabled'] %}
docker-wanted:
  test.fail_without_changes:
    - name: the pillar has docker.enabled for this node, and the next highstate would install it again
    - failhard: True
{%- endif %}

{%- for unit in ['saltberry-docker-prune.timer', 'docker.socket', 'docker.service'] %}
docker-{{ unit }}-dead:
  units.dead:
    - name: {{ unit }}
{%- endfor %}

docker-absent-prune-units:
  file.absent:
    - names:
      - /etc/systemd/system/saltberry-docker-prune.timer
      - /etc/systemd/system/saltberry-docker-prune.service
    - require:
      - units: docker-saltberry-docker-prune.timer-dead

docker-packages-removed:
  debs.removed:
    - packages: [docker.io, docker-cli]
    - require:
      - units: docker-docker.service-dead
