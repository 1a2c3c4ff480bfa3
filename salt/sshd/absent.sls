# As the distribution has it.
sshd-as-is:
  sshd.as_is: []
