# Helm for the control plane, in the mirror: downloaded once, by its hash. Only where charts are wanted.
{%- if salt['helm.wanted']() and pillar['mirror']['enabled'] and not pillar['helm']['source'] %}
helm-mirror:
  helm.mirrored:
    - name: /srv/saltberry/mirror/helm
{%- else %}
{}
{%- endif %}
