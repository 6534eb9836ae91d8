"""What goes wrong with a file as a whole."""


class UnusableFile(Exception):
    """A file cannot be read or written as the user asked. The message says which file and why."""
