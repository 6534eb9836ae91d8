"""Callers: API keys, and the owner of sessions and tokens that belongs to each key."""

import hashlib
from collections.abc import Iterable, Mapping

from starlette.types import Scope

from elman.errors import Unauthorized

OWNER = "elman.owner"
"""The key of an ASGI scope that holds the owner."""

ANYONE = bytes(16)
"""The owner of all requests if no keys are set."""


class Callers:
    """The callers with a valid key. Without keys, everybody is the same caller."""

    def __init__(self, keys: Iterable[str]) -> None:
        # Keys are looked up by hash, so that the time of a look-up tells nothing about a key.
        self._owners = {_hash(key.encode()): _hash(b"owner " + key.encode())[:16] for key in keys}

    @property
    def open(self) -> bool:
        """True if no key is needed."""
        return not self._owners

    def identify(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The caller of a request, by its headers. Raises Unauthorized."""
        if not self._owners:
            return ANYONE
        shown = headers.get(b"authorization", b"")
        kind, _, key = shown.partition(b" ")
        owner = self._owners.get(_hash(key.strip())) if kind.lower() == b"bearer" else None
        if owner is None:
            detail = "the API key is not known" if shown else "an API key is needed"
            raise Unauthorized(detail, where="header Authorization", expected="Bearer <key>")
        return owner


def owner_of(scope: Scope) -> bytes:
    """The owner of a request, as `Callers` identified it."""
    owner: bytes = scope.get(OWNER, ANYONE)
    return owner


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
