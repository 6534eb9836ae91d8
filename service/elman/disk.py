"""Room on a disk."""

import errno
import os


def take_room(file: int, size: int) -> None:
    """Make an open file at least `size` bytes long, with room on the disk for all of them. Its content stays.

    A file that is mapped into memory needs this, and no other way to make it longer: a process that writes to a place
    there for which the disk has no room is ended by SIGBUS.

    Raises OSError.
    """
    if os.fstat(file).st_size >= size:
        return  # it was set aside when the file was made so long
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        # Not every system and not every file system can set room aside without writing.
        with open(file, "ab", closefd=False) as end:
            end.write(bytes(max(0, size - end.tell())))
