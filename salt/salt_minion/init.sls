# The minion's settings as shipped in etc/minion.d: the same text that install/minion.sh writes.
salt-minion-config:
  node.salt_config:
    - name: /etc/salt/minion.d/saltberry.conf
    - source: salt://salt_minion/files/saltberry.conf.in

# After the run: a restart now would cut off this very job.
salt-minion-restarted:
  node.restarted_later:
    - name: salt-minion.service
    - onchanges:
      - node: salt-minion-config
