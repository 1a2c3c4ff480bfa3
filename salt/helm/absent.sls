# No release that was made from the pillar, and no Helm. Where there is none, nothing is asked.
helm-releases-absent:
  helm.pruned:
    - keep: []

helm-absent:
  helm.uninstalled:
    - require:
      - helm: helm-releases-absent
