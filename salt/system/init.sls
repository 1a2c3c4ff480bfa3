# What makes any stock Raspberry Pi OS or Debian a node that people can live with. Each of these does
# something only where pillar and facts of the node say so.
include:
  - system.packages
  - updates
  - users
  - sshd
  - clock
  - journal
  - watchdog
  - wifi
  - firmware
