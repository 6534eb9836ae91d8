"""The engine: sequences in, answers out, continuously batched between chunks of steps."""
