"""Sequences from files, and results to files. One module for each format, each with a source and a sink."""
