"""Elman against what limits it and against the servers that a user would pick instead. Run `python -m benchmarks`."""
