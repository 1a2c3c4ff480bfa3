# A worker: joins when the master has put a sealed ticket into the pillar for this run
# (kubeadm_ticket). Without one, a node that is not in the cluster only tells the master that it is
# ready.
include:
  - base
  - cni.chosen
  - containerd
  - kubernetes

kubeadm-joined-fit:
  node.fit:
    - name: worker

kubeadm-joined:
  kubeadm.joined:
    - name: {{ pillar['rack']['name'] | json }}
    - require:
      - node: kubeadm-joined-fit
      - cni: cni-chosen
      - sls: base.hostname
      - sls: base.hosts
      - sls: base.kernel
      - sls: base.swap
      - service: containerd-running
      - sls: kubernetes.installed
      - sls: kubernetes.configured
