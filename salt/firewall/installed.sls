firewall-packages:
  debs.installed:
    - packages: [nftables]
