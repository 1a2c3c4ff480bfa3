# What containers' images (overlay) and the pods' network (br_netfilter) need of the kernel.
# In a container all that is shared stays as the host has it; the states find that out themselves.
base-kernel-modules:
  node.kernel_modules:
    - name: /etc/modules-load.d/saltberry.conf
    - modules: [overlay, br_netfilter]

base-sysctl:
  node.sysctl:
    - name: /etc/sysctl.d/99-saltberry.conf
    - values:
        net.ipv4.ip_forward: 1
        # Packets between pods of one node pass the bridge; kube-proxy's rules must see them.
        net.bridge.bridge-nf-call-iptables: 1
        net.bridge.bridge-nf-call-ip6tables: 1
    - require:
      - node: base-kernel-modules
