# The Pi's firmware boots with the memory cgroup off; kubelet does not run without it. Counts from
# the next boot, which is left to you: node.preflight says when it is due.
base-boot-flags:
  node.boot_flags:
    - flags: {{ salt['node.boot_flags']() | json }}
