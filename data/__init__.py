"""Frames as cameras and folders deliver them: reading, describing, checking and augmenting them."""
