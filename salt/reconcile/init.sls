# What makes the master look at the rack by itself: on request (the reactor leaves one for every node
# that starts), and every few minutes in case a request was lost.
include:
  - reconcile.installed
  - reconcile.running
