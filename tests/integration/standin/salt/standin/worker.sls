include: [cni]

prepared:
  test.succeed_without_changes
