"""A seeded generator of paired RGB and thermal scenes, for tests, the demo and the README."""
