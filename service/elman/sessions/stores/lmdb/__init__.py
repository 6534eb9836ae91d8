"""Sessions in a file beside the server, by LMDB: shared by the processes of one machine, intact after `kill -9`.

The file has four tables.

- `ids`: the id of a session to the number under which it is kept. Numbers ascend, so that a new session is always
  added at the end and pages fill up.
- `records`: number and part to a piece of the session: its fields, and room for two states. The size of a piece
  never changes, so that a step writes in place.
- `kinds`: a small number to what many sessions have in common: owner, model, version, digest.
- `owners`: an owner to what it holds; and owner and id, a longer key, to nothing, so that sessions can be listed.

What survives. An acknowledged transaction has been handed to the operating system. Killing the server loses nothing
and leaves nothing half-written. If the machine itself stops (power, kernel), `sync=True` loses nothing either, at the
price of a flush for each transaction. With `sync=False` the last seconds may be lost, and the file may be damaged if
the file system does not write in the order of the calls. Checksums detect a damaged session, and it is refused. A page
that was never written may still show a session at an earlier step, whole.
"""

from elman.sessions.stores.lmdb.store import LMDBStore

__all__ = ["LMDBStore"]
