"""A small shop: a sample application of pikku."""
