{# A node was prepared by hand (state.apply) and waits for its join ticket: look at the rack. #}
look at the rack:
  runner.rack.wake: []
