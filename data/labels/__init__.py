"""Labels as the field stores them: a function for each format, each under a literal table."""
