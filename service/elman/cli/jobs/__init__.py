"""What the commands run: reading, asking and writing."""
