# Move the engines' data to where the pillar says. On a node in a cluster only when the master has
# drained it (container_storage_drained), one node at a time; until then this tells the master.
{%- set storage = salt['storage_backend.settings']() %}
include:
  - container_storage.mounted

container-storage-managed:
  container_storage.managed:
    - name: {{ storage.target | json }}
    - drained: {{ pillar.get('container_storage_drained', False) | json }}
    - require:
      - sls: container_storage.mounted
