"""The shipped models: recipes, data, the trained files and their cards. Nothing of it is installed."""
