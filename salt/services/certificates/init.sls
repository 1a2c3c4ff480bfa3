# cert-manager, by its own chart (see helm), and the rack's authority for it to sign with.
include:
  - helm

services-certificates:
  rack_ca.present:
    - name: rack-ca
    {%- if pillar.get('cluster', {}).get('nodes') and 'cert-manager' in salt['helm.wanted']() %}
    - require:
      - helm: helm-release-cert-manager
    {%- endif %}
