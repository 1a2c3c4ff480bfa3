# PersistentVolumes on the share. Their folders and exports are made on the storage node (salt/nfs/server).
services-storage:
  manifests.applied:
    - name: storage
    - source: salt://services/storage/manifests.yaml
    - values: {{ salt['volumes.values']() | json }}

services-storage-claimable:
  volumes.claimable:
    - name: storage
    - require:
      - manifests: services-storage
