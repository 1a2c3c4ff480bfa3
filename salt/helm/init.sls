# Helm charts, by name as under helm.releases in the pillar, and those that services bring; applied from the control plane, when the master
# knows the cluster (see services/init.sls). Without releases there is no Helm.
{%- set releases = salt['helm.wanted']() %}
{%- if not releases %}
include:
  - helm.absent
{%- elif pillar.get('cluster', {}).get('nodes') %}
helm-installed:
  helm.installed: []

# First those that go: another release may take over what they have.
helm-others:
  helm.pruned:
    - keep: {{ releases | list | json }}
    - require:
      - helm: helm-installed
{%- for name in releases %}

helm-release-{{ name }}:
  helm.released:
    - name: {{ name }}
    - require:
      - helm: helm-installed
      - helm: helm-others
{%- endfor %}
{%- else %}
{}
{%- endif %}
