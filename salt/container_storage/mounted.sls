# The file system that the engines are to live on. Order: share, lock, check, image; and only then
# the engines, which container_storage.managed binds to it.
{%- set storage = salt['storage_backend.settings']() %}
{%- if not storage.what %}
container-storage-local:
  test.show_notification:
    - text: {{ ("container data is on the system's disk" ~ (": " ~ storage.later if storage.later else "")) | json }}
{%- else %}
{%- if storage.image %}
include:
  - nfs.client

container-storage-share:
  nfs.answering:
    - name: {{ storage.share | json }}
    - require:
      - sls: nfs.client

container-storage-image:
  disk_image.present:
    - name: {{ storage.image | json }}
    - size: {{ storage.size | json }}
    - require:
      - nfs: container-storage-share
    - require_in:
      - systemd_mount: container-storage-mounted
{%- for id, unit, text in [
      ('lock', 'saltberry-containers-lock.service', salt['storage_backend.lock_unit']()),
      ('check', 'saltberry-containers-check.service', salt['storage_backend.check_unit']())] %}

container-storage-{{ id }}:
  systemd_mount.unit:
    - name: {{ unit }}
    - text: {{ text | json }}
    - require_in:
      - systemd_mount: container-storage-mounted
{%- endfor %}
{%- endif %}

container-storage-mounted:
  systemd_mount.mounted:
    - name: {{ storage.mount | json }}
    - what: {{ storage.what | json }}
    - unit: {{ storage.unit | json }}

# At a boot without the share or the disk, the engines follow when it has come.
container-storage-awaited:
  systemd_mount.awaited:
    - name: saltberry-containers.service
    - description: Wait for the disk of the containers
    - mounts: [{{ storage.mount | json }}]
    - then: [containerd.service, docker.service{{ ', kubelet.service' if storage.pod_data else '' }}]
    - require:
      - systemd_mount: container-storage-mounted
{%- endif %}
