{# The container data of one member of the cluster moves to where its pillar says. rack.reconcile runs
   this in a process of its own, with pillar task: {node, role, control_plane}, for one node at a time;
   it also lets pods onto the node again afterwards, however this ends. #}
{%- set node = pillar["task"]["node"] %}

sync:
  salt.runner:
    - name: rack.sync
    - kwarg: {node: {{ node | json }}}
    - failhard: True

drain:
  salt.runner:
    - name: rack.drain
    - kwarg: {node: {{ node | json }}}
    - failhard: True
    - require: [{salt: sync}]

move:
  salt.runner:
    - name: rack.states
    - kwarg: {node: {{ node | json }}, drained: True}
    - failhard: True
    - require: [{salt: drain}]

ready:
  salt.runner:
    - name: rack.ready
    - kwarg: {node: {{ node | json }}}
    - failhard: True
    - require: [{salt: move}]
