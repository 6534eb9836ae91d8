"""Elman: an inference server for recurrent networks, and its client."""

__version__ = "0.1.0"
