# The mirror is not served; what is on the disk stays.
include:
  - mirror.pull_through_absent

mirror-nginx-site-absent:
  file.absent:
    - name: /etc/nginx/conf.d/saltberry-mirror.conf

mirror-registry-dead:
  units.dead:
    - name: docker-registry
