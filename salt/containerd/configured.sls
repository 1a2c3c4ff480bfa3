{%- set containerd = salt['node.containerd_settings']() %}
{#- Where the data is belongs to container_storage, which moves it and edits the line. #}
{%- set root = salt['container_storage.containerd_root']() %}
containerd-config:
  file.managed:
    - name: /etc/containerd/config.toml
    - mode: '0644'
    - makedirs: True
    - contents: |
        # Written by Salt (salt/containerd). Registries are in certs.d.
        version = 2
        {%- if root %}
        root = {{ root | json }}
        {%- endif %}

        [plugins."io.containerd.grpc.v1.cri"]
          sandbox_image = {{ containerd.pause_image | json }}
          # True where this node may not lower OOM scores (a container without CAP_SYS_RESOURCE).
          restrict_oom_score_adj = {{ containerd.restrict_oom_score_adj | json }}

          [plugins."io.containerd.grpc.v1.cri".cni]
            bin_dir = "/opt/cni/bin"
            conf_dir = "/etc/cni/net.d"

          # systemd owns the cgroups; kubelet is told the same.
          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
            runtime_type = "io.containerd.runc.v2"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
              SystemdCgroup = true

          [plugins."io.containerd.grpc.v1.cri".registry]
            config_path = "/etc/containerd/certs.d"
{% for host, registry in containerd.registries.items() %}
containerd-registry-{{ host }}:
  file.managed:
    - name: /etc/containerd/certs.d/{{ host }}/hosts.toml
    - mode: '0644'
    - makedirs: True
    - contents: |
        # Written by Salt (pillar containerd.registries, mirror.pull_through).
        {%- if registry.server %}
        server = {{ registry.server | json }}
        {%- endif %}
        {%- for endpoint in registry.endpoints %}

        [host.{{ endpoint | json }}]
          capabilities = ["pull", "resolve"]
        {%- endfor %}
{% endfor %}
{%- for host in containerd.left %}
containerd-registry-{{ host }}-absent:
  file.absent:
    - name: /etc/containerd/certs.d/{{ host }}/hosts.toml
{% endfor %}
