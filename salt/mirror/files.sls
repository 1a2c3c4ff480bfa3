include:
  - mirror.folder

mirror-nginx-packages:
  debs.installed:
    - packages: [nginx-light]

# Debian's greeting page would take port 80.
mirror-nginx-no-default-site:
  file.absent:
    - name: /etc/nginx/sites-enabled/default
    - require:
      - debs: mirror-nginx-packages

mirror-nginx-site:
  file.managed:
    - name: /etc/nginx/conf.d/saltberry-mirror.conf
    - mode: '0644'
    - makedirs: True
    - contents: |
        # Written by Salt (salt/mirror). Nothing secret belongs below this root.
        server {
            listen {{ pillar['mirror']['listen'] or '*' }}:80;
            root /srv/saltberry/mirror;
            server_tokens off;

            allow {{ pillar['rack']['network'] }};
            allow 127.0.0.0/8;
            deny all;

            # The registries serve their own storage; files that begin with a dot are nobody's.
            location /registry/ { deny all; }
            location /pull-through/ { deny all; }
            location ~ /\. { deny all; }
        }

        # For apt (pillar mirror.packages): the addresses of the internet, as far as they were synced.
        server {
            listen {{ pillar['mirror']['listen'] or '*' }}:3142;
            root /srv/saltberry/mirror/apt/$host;
            server_tokens off;

            allow {{ pillar['rack']['network'] }};
            allow 127.0.0.0/8;
            deny all;

            location ~ /\. { deny all; }
        }
    - require:
      - debs: mirror-nginx-packages

mirror-nginx-running:
  service.running:
    - name: nginx
    - enable: True
    - require:
      - file: mirror-folder
    - watch:
      - file: mirror-nginx-site
      - file: mirror-nginx-no-default-site
