"""The shipped training recipes, as YAML."""
