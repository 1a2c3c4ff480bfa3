containerd-packages:
  debs.installed:
    - name: containerd
    - packages: [containerd, runc]
