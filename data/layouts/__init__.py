"""How the field's public sets lie on disk: a function for each, all listed in data.layouts.known."""
