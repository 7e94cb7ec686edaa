"""Random changes of a training pair, and the bad light and bad sensors that a model is judged in."""
