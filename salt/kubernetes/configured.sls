# kubelet is only enabled: until kubeadm has configured it, it would start and die in a loop.
include:
  - kubernetes.installed

kubernetes-kubelet-enabled:
  node.enabled:
    - name: kubelet.service
    - require:
      - debs: kubernetes-packages

# So that "crictl ps" finds containerd without guessing (and kubeadm reset with it).
kubernetes-crictl:
  file.managed:
    - name: /etc/crictl.yaml
    - mode: '0644'
    - contents: |
        # Written by Salt.
        runtime-endpoint: unix:///run/containerd/containerd.sock
        image-endpoint: unix:///run/containerd/containerd.sock
        timeout: 10
