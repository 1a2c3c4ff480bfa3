base:
  '*':
    - layout_probe
