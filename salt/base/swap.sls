# No swap, now and at boot: fstab, Raspberry Pi OS's own (dphys-swapfile up to Bookworm, rpi-swap
# since Trixie) and zram. kubelet refuses to start beside it.
base-swap:
  node.swap_off: []
