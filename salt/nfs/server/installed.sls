include:
  - nfs.v4_only

nfs-server-packages:
  debs.installed:
    - packages: [nfs-kernel-server, e2fsprogs, rsync]
    - require:
      - sls: nfs.v4_only
