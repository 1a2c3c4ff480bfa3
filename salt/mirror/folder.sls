# Only made, never written to: what is in it is laid there by whoever fills the mirror, and it may
# be a read-only mount.
mirror-folder:
  file.directory:
    - name: /srv/saltberry/mirror
    - makedirs: True
