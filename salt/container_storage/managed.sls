# Move the engines' data to where the pillar says. On a node in a cluster only when the master has
# drained it (container_storage_drained), one node at a time; until then this tells the master.
{%- set storage = salt['storage_backend.settings']() %}
{%- set drained = pillar.get('container_storage_drained', False) %}
include:
  - container_storage.mounted

container-storage-managed:
  container_storage.managed:
    - name: {{ storage.target | json }}
    - drained: {{ drained | json }}
    # The master has a pause of its own after a move that failed.
    - retry_after: {{ 0 if drained else 3600 }}
    - require:
      - sls: container_storage.mounted
{%- if storage.pod_data and storage.what %}
{% for path, source in storage.pod_folders.items() %}
container-storage-{{ path }}:
  pod_data.bound:
    - name: {{ path | json }}
    - source: {{ source | json }}
    - target: {{ storage.target | json }}
    - drained: {{ drained | json }}
    - require:
      - container_storage: container-storage-managed
    - require_in:
      - systemd_mount: container-storage-kubelet
{% endfor %}
# kubelet would fill the card below, and see none of its pods.
container-storage-kubelet:
  systemd_mount.needed_by:
    - name: {{ storage.mount | json }}
    - units: [kubelet.service]
    - mounts: {{ storage.pod_folders | list | json }}
{%- endif %}
