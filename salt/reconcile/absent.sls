# The master looks at the rack no more, neither by events nor by its timer; `salt-run rack.reconcile` still does.
# For a while of quiet: the next highstate of the master starts it again.
{%- for unit in ['saltberry-reconcile.path', 'saltberry-reconcile.timer'] %}
reconcile-{{ unit }}-dead:
  units.dead:
    - name: {{ unit }}
{%- endfor %}
