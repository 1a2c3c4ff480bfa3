# What a Raspberry Pi (or any Debian) lacks to be a Kubernetes node.
include:
  - base.hostname
  - base.hosts
  - base.boot_flags
  - base.swap
  - base.kernel
