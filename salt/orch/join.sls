{# One node, from an accepted key to Ready. rack.reconcile runs this in a process of its own, with
   pillar task: {node, role, control_plane}; the id was checked there. Stages stop at the first
   failure, and their names are what rack.status shows. #}
{%- set task = pillar["task"] %}
{%- set node = task["node"] %}

preflight:
  salt.runner:
    - name: rack.preflight
    - kwarg: {node: {{ node | json }}, role: {{ task["role"] | json }}}
    - failhard: True
{% if task["role"] == "worker" %}
join:
  salt.runner:
    - name: rack.join
    - kwarg: {node: {{ node | json }}}
    - failhard: True
    - require: [{salt: preflight}]
{% else %}
states:
  salt.runner:
    - name: rack.states
    - kwarg: {node: {{ node | json }}}
    - failhard: True
    - require: [{salt: preflight}]
{% endif %}
ready:
  salt.runner:
    - name: rack.ready
    - kwarg: {node: {{ node | json }}}
    - failhard: True
    - require: [{salt: {{ "join" if task["role"] == "worker" else "states" }}}]
