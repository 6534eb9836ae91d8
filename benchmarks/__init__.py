"""Measures Elman against its ceilings and against other servers. Run `python -m benchmarks`."""
