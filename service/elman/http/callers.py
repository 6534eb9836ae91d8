"""Who calls: API keys, and the owner of sessions and tokens that a key stands for."""

import hashlib
from collections.abc import Iterable, Mapping

from starlette.types import Scope

from elman.errors import Unauthorized

OWNER = "elman.owner"
"""Where a scope says whose request it is."""

ANYONE = bytes(16)
"""The one caller that there is where no keys are set."""


class Callers:
    """The callers that are let in: everybody as one where there are no keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        # By their hash, so that how long a look-up takes says nothing of a key.
        self._owners = {_hash(key.encode()): _hash(b"owner " + key.encode())[:16] for key in keys}

    @property
    def open(self) -> bool:
        """Whether everybody is let in."""
        return not self._owners

    def identify(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The caller of a request, by its headers. Raises Unauthorized."""
        if not self._owners:
            return ANYONE
        shown = headers.get(b"authorization", b"")
        kind, _, key = shown.partition(b" ")
        owner = self._owners.get(_hash(key.strip())) if kind.lower() == b"bearer" else None
        if owner is None:
            what = "the API key is not known" if shown else "an API key is needed"
            raise Unauthorized(what, where="header Authorization", expected="Bearer <key>")
        return owner


def owner_of(scope: Scope) -> bytes:
    """Whose request it is, as `Callers` found."""
    owner: bytes = scope.get(OWNER, ANYONE)
    return owner


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
