"""What a sample of pairs says of how thermal was stored, exposed and mounted, before anybody trains on it."""
