"""A whole fabric on one machine: several nodes in namespaces, for trying out and for tests."""
