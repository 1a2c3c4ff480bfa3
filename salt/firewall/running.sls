# A table of our own, in the kernel now and after each boot before the network is up. The distribution's
# nftables.service stays as it is, for it flushes everybody's tables.
include:
  - firewall.installed

firewall-rules:
  firewall.loaded:
    - require:
      - debs: firewall-packages

firewall-unit:
  file.managed:
    - name: /etc/systemd/system/saltberry-firewall.service
    - contents: |
        # Written by Salt (salt/firewall).
        [Unit]
        Description=What may come in to this node
        DefaultDependencies=no
        Wants=network-pre.target
        After=local-fs.target nftables.service
        Before=network-pre.target shutdown.target
        Conflicts=shutdown.target

        [Service]
        Type=oneshot
        RemainAfterExit=yes
        ExecStart=/usr/sbin/nft -f {{ salt['firewall.path']() }}
        ExecReload=/usr/sbin/nft -f {{ salt['firewall.path']() }}
        ExecStop=-/usr/sbin/nft delete table inet saltberry

        [Install]
        WantedBy=sysinit.target
    - mode: '0644'

firewall-unit-read:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: firewall-unit

firewall-running:
  service.running:
    - name: saltberry-firewall
    - enable: True
    - require:
      - firewall: firewall-rules
      - module: firewall-unit-read
