include:
  - nfs.server.installed
  - nfs.server.folders

nfs-server-config:
  file.managed:
    - name: /etc/nfs.conf.d/saltberry.conf
    - mode: '0644'
    - makedirs: True
    - contents: |
        # Written by Salt (salt/nfs/server): NFS 4 alone, one port.
        # rpc.mountd listens on ports of its own as long as an older version is left.
        [nfsd]
        vers2=n
        vers3=n
        vers4=y
    - require:
      - debs: nfs-server-packages

nfs-exports:
  nfs.exported:
    - name: /etc/exports.d/saltberry.exports
    - require:
      - debs: nfs-server-packages
      - sls: nfs.server.folders
{%- if pillar['nfs']['disk'] %}

nfs-server-needs-disk:
  systemd_mount.needed_by:
    - name: {{ pillar['nfs']['path'] | json }}
    - units: [nfs-server.service]
    - require:
      - debs: nfs-server-packages
{%- endif %}
