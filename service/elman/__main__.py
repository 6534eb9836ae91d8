"""`python -m elman` is the command `elman`."""

import sys


def main() -> None:
    """Run the command, with nothing of the current folder taken for a library."""
    if not sys.flags.safe_path:
        # `python -m` puts the current folder first. A file there called onnx.py would hide the library.
        sys.path.pop(0)
    from elman.cli import main

    main()


if __name__ == "__main__":
    main()
