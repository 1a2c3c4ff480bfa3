{# The file says which minion ran the states; tests look for it. #}
show that a state ran:
  layout_probe.marked:
    - name: {{ opts['cachedir'] }}/ran
