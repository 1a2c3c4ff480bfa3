# Lines of the Pi's config.txt, for example its GPU memory.
firmware-config:
  firmware.config_txt:
    - values: {{ salt['node.system']().config_txt | json }}
