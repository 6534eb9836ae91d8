"""Sessions in Redis or Valkey, for servers on many machines: a server, one behind Sentinel, or a cluster.

Keys, each with a hash tag so that a cluster can place it:

- `elman:{ID}`: a session, one string: its fields, and room for two states. A step writes the one that is not current
  and changes the fields, in a script that first compares the mark. The server removes the key when it expires.
- `elman:{OWNER}:ids`, `:due`, `:bytes`: the sessions of an owner with their sizes, when each may expire, and the sum of
  the sizes. A step does not touch them, so `due` may be too early: the sweep corrects it.
- `elman:owners`, `elman:format`, `elman:state-key`: all owners, the format of all this, and the key of state tokens.

What survives. An acknowledged step is in the memory of the primary, and on its disk and on its replicas if Redis is set
up for that. Every script may be sent again: it knows by the marks what it has done already. A call whose answer is lost
is therefore made once more, at another node of a cluster if that has the key by then. If that is not answered either,
or refused, its outcome is unknown.
"""

from elman.sessions.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
