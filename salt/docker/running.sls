include:
  - docker.configured
  - docker.installed

docker-running:
  service.running:
    - name: docker
    - enable: True
    - require:
      - debs: docker-packages
    - watch:
      - docker_daemon: docker-config
