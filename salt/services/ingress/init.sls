# Traefik. With a load balancer MetalLB comes first, by its own chart (see helm).
{%- set balanced = pillar.get('cluster', {}).get('nodes') and 'metallb' in salt['helm.wanted']() %}
{%- if balanced %}
include:
  - helm
{%- endif %}

services-ingress:
  manifests.applied:
    - name: ingress
    - source: salt://services/ingress/manifests.yaml
    - values: {{ salt['ingress.values']() | json }}
    {%- if balanced %}
    - require:
      - helm: helm-release-metallb
    {%- endif %}
