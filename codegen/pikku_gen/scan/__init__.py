"""Source text to facts, file by file; the only folder that imports libcst, and only on demand."""
