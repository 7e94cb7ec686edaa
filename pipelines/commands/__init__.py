"""One module for each sub-command of rgbt; heavy imports wait until a command runs."""
