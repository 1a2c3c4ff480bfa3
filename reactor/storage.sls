{# A node's container data shall move, and the node waits to be drained for it: look at the rack. #}
look at the rack:
  runner.rack.wake: []
