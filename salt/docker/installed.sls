# The command line is a package of its own since Debian 13.
docker-packages:
  debs.installed:
    - packages: {{ ['docker.io', 'docker-cli'] if grains.get('osmajorrelease', 0) | int >= 13 else ['docker.io'] }}
