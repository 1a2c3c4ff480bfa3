# The registries' files are read at each pull; only the main configuration needs a restart. Pods
# live on through one.
include:
  - containerd.installed
  - containerd.configured

containerd-running:
  service.running:
    - name: containerd
    - enable: True
    - require:
      - sls: containerd.installed
    - watch:
      - file: containerd-config
