# The control plane: kubeadm init, with everything from the pillar. Done once; a cut-off init is
# taken up again.
include:
  - containerd.running
  - kubernetes.installed

kubeadm-initialized-fit:
  node.fit:
    - name: control_plane
    - require:
      - sls: kubernetes.installed

kubeadm-initialized:
  kubeadm.initialized:
    - name: {{ pillar['rack']['name'] | json }}
    - require:
      - node: kubeadm-initialized-fit
      - sls: containerd.running
