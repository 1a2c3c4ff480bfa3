# What services need on every node that runs pods.
{}
