# Where the packages come from: upstream's repository of that minor release, or a mirror. apt's
# lists are fetched when a package is to be installed (debs.installed).
{%- set repo = salt['node.repository']() %}
kubernetes-key:
  debs.key:
    - name: {{ repo.keyring }}
    - url: {{ repo.key_url | json }}
    - sha256: {{ repo.key_sha256 | json }}

kubernetes-source:
  file.managed:
    - name: /etc/apt/sources.list.d/saltberry-kubernetes.sources
    - mode: '0644'
    - makedirs: True
    - contents: |
        # Written by Salt (pillar kubernetes.repo).
        Types: deb
        URIs: {{ repo.url }}
        Suites: {{ repo.suite }}
        {%- if not repo.suite.endswith('/') %}
        Components: main
        {%- endif %}
        Signed-By: {{ repo.keyring }}
    - require:
      - debs: kubernetes-key
