# Everything may come in. The tables of others stay, and so does the package.
firewall-absent:
  firewall.absent: []
