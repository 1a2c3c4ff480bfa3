# The container runtime that kubelet talks to.
include:
  - containerd.installed
  - containerd.configured
  - containerd.running
