"""The deliverable: a raw-in graph, its bundle, and the sessions that run it."""
