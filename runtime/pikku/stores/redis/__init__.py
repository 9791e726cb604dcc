"""Runs in Redis or Valkey, for any number of processes on any number of machines."""
