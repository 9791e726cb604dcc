"""A depot that sells by the piece."""
