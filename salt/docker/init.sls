# Docker for people (docker build, docker push), beside the containerd that kubelet uses.
include:
  - docker.configured
  - docker.installed
  - docker.running
  - docker.pruned
