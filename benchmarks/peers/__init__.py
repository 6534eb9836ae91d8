"""The servers that Elman is measured against, each a small program that its own environment runs."""
