# A worker: joins when the master has put a sealed ticket into the pillar for this run
# (kubeadm_ticket). Without one, a node that is not in the cluster only tells the master that it is
# ready.
kubeadm-joined-fit:
  node.fit:
    - name: worker

kubeadm-joined:
  kubeadm.joined:
    - name: {{ pillar['rack']['name'] | json }}
    - require:
      - node: kubeadm-joined-fit
