"""What was read and what it means: frozen records that import nothing of ours but each other."""
