"""A rack on one machine: Raspberry Pis as systemd containers, everything in them real."""
