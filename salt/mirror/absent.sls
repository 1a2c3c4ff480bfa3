# The mirror is not served; what is on the disk stays.
mirror-nginx-site-absent:
  file.absent:
    - name: /etc/nginx/conf.d/saltberry-mirror.conf

mirror-registry-dead:
  service.dead:
    - name: docker-registry
    - enable: False
    - onlyif:
      - fun: service.available
        name: docker-registry
