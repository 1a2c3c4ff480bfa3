# Restarted only for its own settings; new exports are read while it runs (nfs.exported).
include:
  - nfs.server.configured

nfs-server-running:
  service.running:
    - name: nfs-server
    - enable: True
    - require:
      - sls: nfs.server.configured
    - watch:
      - file: nfs-server-config
