"""State tokens: a running state that the caller keeps, sealed so that only this server's keys open it.

A token is base64url text of: format (1 byte), key number (4), salt (16), nonce (12), and the fields of `State`,
encrypted and authenticated by AES-256-GCM. Each token has a key of its own, HMAC-SHA256(key, salt), so that there is
no limit to the number of tokens that one secret may seal.
"""

import base64
import binascii
import hmac
import logging
import os
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from elman.errors import BadStateToken, StoreUnavailable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_FORMAT = 1
_PREFIX = struct.Struct(">B4s")
_SALT_NBYTES, _NONCE_NBYTES, _TAG_NBYTES = 16, 12, 16
_SEALED_AT = _PREFIX.size + _SALT_NBYTES + _NONCE_NBYTES
# Version, step, expiry, digest, owner, length of the model's name.
_FACTS = struct.Struct("<QQd32s16sH")
_KEY_FILE = "state.key"

_LOG = logging.getLogger("elman")


@dataclass(frozen=True, slots=True)
class State:
    """What a token holds.

    Attributes:
        model, version: the model that the state belongs to.
        digest: of the model's file, 32 bytes.
        owner: 16 bytes that identify the caller.
        step: number of steps done.
        expires_at: seconds since the epoch.
        snapshot: the state after these steps, as `SnapshotFormat` packs it.
    """

    model: str
    version: int
    digest: bytes
    owner: bytes
    step: int
    expires_at: float
    snapshot: bytes


class StateTokens:
    """Seals states with the first of some secrets, and opens tokens that any of them sealed.

    Raises ValueError if there is no secret, or an empty one.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys or not all(keys):
            raise ValueError("state tokens need at least one key, and no key may be empty")
        derived = [_derive(key) for key in keys]
        self._number, self._key = derived[0]
        # Numbers are 32 bits. If two keys had the same one, the earlier key would be kept.
        self._keys = dict(reversed(derived))

    def seal(self, state: State) -> str:
        """A state as url-safe text. Its length is about 4/3 of the snapshot, plus 180 characters."""
        model = state.model.encode()
        facts = _FACTS.pack(state.version, state.step, state.expires_at, state.digest, state.owner, len(model))
        prefix = _PREFIX.pack(_FORMAT, self._number)
        salt, nonce = os.urandom(_SALT_NBYTES), os.urandom(_NONCE_NBYTES)
        sealed = _cipher(self._key, salt).encrypt(nonce, facts + model + state.snapshot, prefix)
        return base64.urlsafe_b64encode(prefix + salt + nonce + sealed).rstrip(b"=").decode()

    def open(
        self, token: str, model: str, version: int, digest: bytes, owner: bytes, now: float, where: str | None = None
    ) -> State:
        """The state in a token, which must belong to this model and this caller and not be expired.

        Args:
            token: as `seal` made it.
            now: seconds since the epoch.
            where: the field of the request, for the error.

        Raises:
            BadStateToken: the message says why. What else the token belongs to is told only to its owner.
        """
        state = self._unseal(token, where)
        if state.owner != owner:
            raise BadStateToken("the state token was given to another caller", where=where)
        if state.expires_at <= now:
            raise BadStateToken(f"the state token expired on {_date(state.expires_at)}", where=where)
        if state.model != model:
            raise BadStateToken(
                f"the state token belongs to the model {state.model!r}, not to {model!r}", where=where, expected=model
            )
        if state.version != version:
            raise BadStateToken(
                f"the state token belongs to version {state.version} of {model!r}, not to version {version}",
                where=where,
                expected=version,
            )
        if state.digest != digest:
            raise BadStateToken(
                f"the state token belongs to another file of version {version} of {model!r} than the one that is "
                "served now",
                where=where,
                expected=f"sha256:{digest.hex()}",
            )
        return state

    def _unseal(self, token: str, where: str | None) -> State:
        from cryptography.exceptions import InvalidTag

        content = _decode(token)
        if content is None or len(content) < _SEALED_AT + _FACTS.size + _TAG_NBYTES or content[0] != _FORMAT:
            raise BadStateToken("this is not a state token, or only a part of one", where=where)
        _, number = _PREFIX.unpack_from(content)
        key = self._keys.get(number)
        if key is None:
            raise BadStateToken(
                "the state token was sealed with a key that this server does not have, or it was changed", where=where
            )
        salt, nonce = (
            content[_PREFIX.size : _PREFIX.size + _SALT_NBYTES],
            content[_SEALED_AT - _NONCE_NBYTES : _SEALED_AT],
        )
        try:
            opened = _cipher(key, salt).decrypt(nonce, content[_SEALED_AT:], content[: _PREFIX.size])
        except InvalidTag:
            raise BadStateToken("the state token was changed after it was sealed", where=where) from None
        version, step, expires_at, digest, owner, length = _FACTS.unpack_from(opened)
        at = _FACTS.size + length
        model = opened[_FACTS.size : at].decode()
        return State(model, version, digest, owner, step, expires_at, opened[at:])


def own_key(folder: Path | None) -> str:
    """A server's own key, kept in a folder; a new one if there is no folder or it cannot be kept there."""
    if folder is None:
        return secrets.token_urlsafe(32)
    try:
        return load_or_make_key(folder)
    except (OSError, StoreUnavailable):
        _LOG.warning("the key cannot be kept in the store's folder: state tokens are valid until the server stops")
        return secrets.token_urlsafe(32)


def load_or_make_key(folder: Path) -> str:
    """The key kept in a folder. It is made if there is none; processes that start at once get the same key.

    Raises StoreUnavailable if the key can be neither read nor kept.
    """
    file = folder / _KEY_FILE
    try:
        return _read_key(file)
    except FileNotFoundError:
        pass
    except OSError:
        raise StoreUnavailable("the key of state tokens in the session store's folder cannot be read") from None
    draft = folder / f"{_KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(secrets.token_urlsafe(32))
                out.flush()
                os.fsync(out.fileno())
            try:
                # Unlike a rename, a link does not replace the key of another process that was faster.
                os.link(draft, file)
            except FileExistsError:
                pass
        finally:
            draft.unlink(missing_ok=True)
        return _read_key(file)
    except OSError:
        raise StoreUnavailable("the key of state tokens cannot be kept in the session store's folder") from None


def _read_key(file: Path) -> str:
    try:
        key = file.read_text().strip()
    except UnicodeDecodeError:
        key = ""
    if len(key) < 32:
        raise StoreUnavailable("the key of state tokens in the session store's folder is damaged")
    return key


def _derive(key: str) -> tuple[bytes, bytes]:
    """The number of a secret, which its tokens carry, and its key."""
    # Few requests ask for a token, and without one a server needs none of this.
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(SHA256(), length=36, salt=None, info=b"elman state token 1").derive(key.encode())
    return derived[:4], derived[4:]


def _cipher(key: bytes, salt: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(hmac.digest(key, salt, "sha256"))


def _decode(token: str) -> bytes | None:
    """The bytes of a token; None if it is not spelt exactly as `seal` spells it."""
    try:
        text = token.encode("ascii")
        content = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error):
        return None
    # b64decode skips foreign characters and ignores the last bits. A token has one spelling.
    return content if base64.urlsafe_b64encode(content).rstrip(b"=") == text else None


def _date(seconds: float) -> str:
    """A time to be read by a person, in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d at %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"second {seconds:g}"
