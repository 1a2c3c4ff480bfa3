# The disk under the share. Formatted only when asked, and never when there is a sign of data on it.
{%- set share = pillar['nfs'] %}
{%- if not share.disk %}
nfs-disk:
  test.show_notification:
    - text: {{ ("the share is a plain folder, " ~ share.path) | json }}
{%- else %}
{%- if share.format %}
nfs-disk-formatted:
  disks.formatted:
    - name: {{ share.format | json }}
    - spec: {{ share.disk | json }}
    - require_in:
      - systemd_mount: nfs-disk
{%- endif %}

# Not in the way of the boot (nofail): a node whose disk is away comes up and can be asked.
nfs-disk:
  systemd_mount.mounted:
    - name: {{ share.path | json }}
    - what: {{ share.disk | json }}
    - unit:
        description: The disk of the rack's share
        options: [noatime, nofail]

# Where the disk turns up late, or is plugged in again.
nfs-disk-awaited:
  systemd_mount.awaited:
    - name: saltberry-share-disk.service
    - description: Wait for the disk of the rack's share
    - mounts: [{{ share.path | json }}]
    - then: [nfs-server.service]
    - require:
      - systemd_mount: nfs-disk
{%- endif %}
