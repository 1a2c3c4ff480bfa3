# Images for the rack, read-only: kubelet pulls, nobody pushes.
include:
  - mirror.folder

mirror-registry-packages:
  debs.installed:
    # skopeo: salt-run mirror.sync
    - packages: [docker-registry, skopeo]

mirror-registry-config:
  file.managed:
    - name: /etc/docker/registry/config.yml
    - mode: '0644'
    - makedirs: True
    - contents: |
        # Written by Salt (salt/mirror).
        version: 0.1
        log:
          level: warn
          accesslog:
            disabled: true
        storage:
          filesystem: {rootdirectory: /srv/saltberry/mirror/registry}
          cache: {blobdescriptor: inmemory}
          maintenance:
            uploadpurging: {enabled: false}
            readonly: {enabled: true}
        http:
          addr: "{{ pillar['mirror']['listen'] or '' }}:5000"
          headers: {X-Content-Type-Options: [nosniff]}
    - require:
      - debs: mirror-registry-packages

mirror-registry-running:
  service.running:
    - name: docker-registry
    - enable: True
    - require:
      - file: mirror-folder
    - watch:
      - file: mirror-registry-config
