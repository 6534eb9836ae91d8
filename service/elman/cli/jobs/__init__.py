"""What the commands run: reading files, asking models, writing results, serving and measuring."""
