"""One module for each runtime that a Session can use; each is imported only when chosen."""
