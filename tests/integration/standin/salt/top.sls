base:
  cp1: [standin.control_plane]
  'pi-*': [standin.worker]
