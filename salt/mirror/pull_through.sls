# What one node pulled from a registry outside, the others get from here (docs/mirror.md).
{%- from 'mirror/pull_through.jinja' import ended, units with context %}
{%- set upstreams = salt['pull_through.upstreams']() %}
{%- set data = '/srv/saltberry/mirror/pull-through' %}
include:
  - mirror.files
  - mirror.registry
{% for unit in units %}
{{ unit }}-unit:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}@.service
    - source: salt://mirror/files/pull-through.service.jinja
    - template: jinja
    - mode: '0644'
    - context:
        name: {{ unit }}
        upstream: {{ unit == 'saltberry-pull-through' }}
{% endfor %}
saltberry-pull-through-units-read:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      {%- for unit in units %}
      - file: {{ unit }}-unit
      {%- endfor %}
{% for host, upstream in upstreams.items() %}
saltberry-pull-through-{{ host }}-data:
  file.directory:
    - name: {{ data }}/{{ host }}
    - user: docker-registry
    - group: docker-registry
    - mode: '0750'
    - makedirs: True
    - require:
      - file: mirror-folder
      - debs: mirror-registry-packages

saltberry-pull-through-{{ host }}-config:
  file.managed:
    - name: /etc/docker/registry/pull-through/{{ host }}.yml
    - mode: '0644'
    - makedirs: True
    - contents: |
        # Written by Salt (salt/mirror). No storage.delete: as long as nothing can be deleted, images are
        # kept, also when their week as a proxy's is over.
        version: 0.1
        log:
          level: warn
          accesslog:
            disabled: true
        storage:
          filesystem: {rootdirectory: {{ data }}/{{ host }}}
          cache: {blobdescriptor: inmemory}
          maintenance:
            readonly: {enabled: true}
        http:
          net: unix
          addr: /run/saltberry-pull-through/{{ host }}/socket
        proxy:
          remoteurl: {{ upstream | json }}
    - require:
      - debs: mirror-registry-packages
{% for unit in units %}
{{ unit }}-{{ host }}-running:
  service.running:
    - name: {{ unit }}@{{ host }}.service
    - enable: True
    - require:
      - module: saltberry-pull-through-units-read
      - file: saltberry-pull-through-{{ host }}-data
    - watch:
      - file: {{ unit }}-unit
      - file: saltberry-pull-through-{{ host }}-config
{% endfor %}
{%- endfor %}
{{- ended(upstreams) }}
saltberry-pull-through-nginx-site:
  file.managed:
    - name: /etc/nginx/conf.d/saltberry-pull-through.conf
    - mode: '0644'
    - contents: |
        # Written by Salt (salt/mirror). containerd says whose image it wants: ?ns=docker.io
        map $arg_ns $saltberry_pull_through {
            default "";
            {%- for host in upstreams %}
            {{ host }} {{ host }};
            {%- endfor %}
        }
        {%- for host in upstreams %}
        {%- for unit in units %}
        upstream {{ unit }}-{{ host }} { server unix:/run/{{ unit }}/{{ host }}/socket; }
        {%- endfor %}
        {%- endfor %}

        server {
            listen {{ pillar['mirror']['listen'] or '*' }}:{{ salt['pull_through.port']() }};
            server_tokens off;

            allow {{ pillar['rack']['network'] }};
            allow 127.0.0.0/8;
            deny all;

            # Layers are large.
            proxy_max_temp_file_size 0;
            # A line that is dead, but does not say so, keeps the first process waiting for minutes.
            proxy_read_timeout 15s;

            location / { deny all; }
            location /v2/ {
                limit_except GET { deny all; }
                if ($saltberry_pull_through = "") { return 404; }
                proxy_pass http://saltberry-pull-through-$saltberry_pull_through;
                error_page 502 504 = @pulled;
            }
            location @pulled {
                proxy_pass http://saltberry-pulled-$saltberry_pull_through;
            }
        }
    - require:
      - debs: mirror-nginx-packages

saltberry-pull-through-nginx-running:
  service.running:
    - name: nginx
    - enable: True
    - reload: True
    - require:
      - service: mirror-nginx-running
    - watch:
      - file: saltberry-pull-through-nginx-site
