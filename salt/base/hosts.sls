# The rack's nodes by name, and above all this node's own name at its address in the rack: Debian's
# "127.0.1.1 <name>" would have the control plane advertise loopback.
base-hosts:
  node.hosts:
    - name: /etc/hosts
    - entries: {{ salt['node.hosts_entries']() | json }}
