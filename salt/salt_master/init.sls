# The master's settings as shipped in etc/master.d: the same text that install/master.sh writes.
salt-master-config:
  node.salt_config:
    - name: /etc/salt/master.d/saltberry.conf
    - source: salt://salt_master/files/saltberry.conf.in

salt-master-enabled:
  node.enabled:
    - name: salt-master.service

# After the run: this job's return has to find a master.
salt-master-restarted:
  node.restarted_later:
    - name: salt-master.service
    - onchanges:
      - node: salt-master-config
