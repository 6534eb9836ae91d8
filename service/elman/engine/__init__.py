"""The engine: runs sequences with continuous batching. Sequences join and leave between chunks of steps."""
