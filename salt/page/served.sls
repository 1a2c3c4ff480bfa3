# By the nginx that serves the mirror, on a port of its own.
{%- set page = pillar['page'] %}
{%- set passwords = '/etc/nginx/saltberry-page.htpasswd' %}
page-nginx-packages:
  debs.installed:
    - packages: [nginx-light]

page-folder:
  file.directory:
    - name: /srv/saltberry/page
    - mode: '0755'
    - makedirs: True
{%- if page.password %}

# You write it, so that no password passes through the pillar: docs/drift.md says how.
page-passwords:
  file.exists:
    - name: {{ passwords }}
    - require_in:
      - file: page-nginx-site
{%- endif %}

page-nginx-site:
  file.managed:
    - name: /etc/nginx/conf.d/saltberry-page.conf
    - mode: '0644'
    - makedirs: True
    - contents: |
        # Written by Salt (salt/page).
        server {
            listen {{ page.port }};
            root /srv/saltberry/page;
            index index.html;
            server_tokens off;
            {%- if page.allow %}

            {%- for allowed in page.allow %}
            allow {{ allowed }};
            {%- endfor %}
            allow 127.0.0.0/8;
            deny all;
            {%- endif %}
            {%- if page.password %}

            auth_basic "rack";
            auth_basic_user_file {{ passwords }};
            {%- endif %}

            add_header Content-Security-Policy "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'" always;
            add_header X-Content-Type-Options nosniff always;
            add_header Referrer-Policy no-referrer always;
            add_header Cache-Control no-store always;

            location ~ /\. { deny all; }
        }
    - require:
      - debs: page-nginx-packages

page-nginx-running:
  service.running:
    - name: nginx
    - enable: True
    - reload: True
    - require:
      - file: page-folder
    - watch:
      - file: page-nginx-site
