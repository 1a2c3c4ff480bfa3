# A folder for each node, of a user of its own that exists nowhere else; and the shared volumes.
include:
  - nfs.server.disk
{% for path, folder in salt['nfs.folders']().items() %}
nfs-folder-{{ path }}:
  file.directory:
    - name: {{ path | json }}
    - user: {{ folder.uid }}
    - group: {{ folder.uid }}
    - mode: '{{ folder.mode }}'
    - makedirs: True
    - require:
      - sls: nfs.server.disk
{% endfor %}
