"""Sequences in files and answers to files: one module a format, each with a source and a sink."""
