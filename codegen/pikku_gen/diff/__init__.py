"""Two states of a project compared: what becomes of the runs that are in flight."""
