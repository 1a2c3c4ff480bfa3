{# One member of the cluster is rebooted, because it wants to be (node.reboot_wanted). rack.reconcile runs
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
    - kwarg: {node: {{ node | json }}, why: a reboot}
    - failhard: True
    - require: [{salt: sync}]

reboot:
  salt.runner:
    - name: rack.reboot
    - kwarg: {node: {{ node | json }}}
    - failhard: True
    - require: [{salt: drain}]

ready:
  salt.runner:
    - name: rack.ready
    - kwarg: {node: {{ node | json }}}
    - failhard: True
    - require: [{salt: reboot}]
