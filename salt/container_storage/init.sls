# Where docker and containerd keep their data, and the way there: nothing is lost on it.
include:
  - container_storage.mounted
  - container_storage.managed
