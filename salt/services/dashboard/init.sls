# Headlamp, and the two accounts with whose tokens people log in (salt-run rack.dashboard_token).
{%- set settings = pillar['services']['dashboard'] %}
services-dashboard:
  manifests.applied:
    - name: dashboard
    - source: salt://services/dashboard/manifests.yaml
    - values:
        image: {{ settings.image | json }}
        node_port: {{ settings.node_port | json }}
