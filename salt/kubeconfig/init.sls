# kubectl for whoever administers the rack, with the cluster's admin kubeconfig, which the master
# brings sealed (kubeadm_kubeconfig).
include:
  - kubernetes.repository

kubeconfig-kubectl:
  debs.installed:
    - packages:
        kubectl: {{ salt['node.kubernetes_packages']()['kubectl'] | json }}
    - hold: True
    - require:
      - sls: kubernetes.repository

kubeconfig-admin:
  kubeadm.kubeconfig:
    - name: /root/.kube/config
