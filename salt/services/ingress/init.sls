# Traefik. With a load balancer MetalLB comes first, by its own chart (see helm).
{%- set values = salt['ingress.values']() %}
{%- if values['addresses'] %}
include:
  - helm
{%- endif %}

services-ingress:
  manifests.applied:
    - name: ingress
    - source: salt://services/ingress/manifests.yaml
    - values: {{ values | json }}
    {%- if values['addresses'] %}
    - require:
      - helm: helm-release-metallb
    {%- endif %}
