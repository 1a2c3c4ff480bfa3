{# A node came up: look at the rack. Nothing of the event is used, see rack.wake. #}
look at the rack:
  runner.rack.wake: []
