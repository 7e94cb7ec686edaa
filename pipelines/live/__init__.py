"""Two running streams: capture, pair, align, infer, and hand the answers on."""
