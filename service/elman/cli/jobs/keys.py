"""Changes of the file of named API keys."""

import contextlib
import fcntl
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import typer

from elman.cli.exits import FAILED, refuse
from elman.http.callers import owner_of_key
from elman.http.keys import MOST_HASHES, KeyEntry, KeysRefused, hash_of, read_keys, written

# So that programs which look for secrets in files know what it is.
_PREFIX = "elman_"

Entries = tuple[KeyEntry, ...]


def add_key(path: Path, name: str, roles: str, expires: str | None, limits: dict[str, Any], existing: bool) -> None:
    """Add a name with a new key, or with an existing one from standard input. Prints a new key."""
    key = _existing_key() if existing else _new_key()
    fields = {
        "name": name,
        "hashes": [hash_of(key)],
        "roles": [role.strip() for role in roles.split(",")],
        "expires": None if expires is None else _time(expires),
        "owner": owner_of_key(key).hex() if existing else None,
        **limits,
    }
    try:
        new = msgspec.convert({field: value for field, value in fields.items() if value is not None}, KeyEntry)
    except msgspec.ValidationError as error:
        raise refuse(str(error)) from None

    def with_new(entries: Entries) -> Entries:
        if name in (one.name for one in entries):
            raise refuse(f"{name} is there already; elman keys rotate {name} makes a further key", FAILED)
        if any(hash_of(key) in one.hashes for one in entries):
            raise refuse("this key has a name already", FAILED)
        return (*entries, new)

    _change(path, with_new, make=True)
    _tell(None if existing else key, f"{name} is added with the roles {', '.join(new.roles)}")


def rotate_key(path: Path, name: str) -> None:
    """Add a key to a name and print it."""
    key = _new_key()

    def rotated(entries: Entries) -> Entries:
        before = _named(entries, name)
        if len(before.hashes) == MOST_HASHES:
            raise refuse(f"{name} has {MOST_HASHES} keys, the most; elman keys revoke {name} --old", FAILED)
        new = msgspec.structs.replace(before, hashes=(hash_of(key), *before.hashes))
        return tuple(new if one is before else one for one in entries)

    _change(path, rotated)
    _tell(key, f"the keys of {name} before this one are valid until elman keys revoke {name} --old")


def revoke_key(path: Path, name: str, old: bool) -> None:
    """Remove a name, or all its keys but the newest."""

    def without(entries: Entries) -> Entries:
        before = _named(entries, name)
        left = [msgspec.structs.replace(before, hashes=before.hashes[:1])] if old else []
        return tuple(new for one in entries for new in (left if one is before else [one]))

    _change(path, without)
    _tell(None, f"only the newest key of {name} is valid" if old else f"{name} has no key any more")


def list_keys(path: Path, as_json: bool) -> None:
    """Print what the file holds, but for the hashes."""
    rows = [_described(one) for one in _read(path)]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        name, roles, number = row.pop("name"), ",".join(row.pop("roles")), row.pop("keys")
        rest = "  ".join(f"{field} {value}" for field, value in row.items())
        typer.echo(f"{name:20}  {roles:20}  {number} key{'s' if number > 1 else ''}  {rest}".rstrip())


def _described(entry: KeyEntry) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(entry)
    told["keys"] = len(told.pop("hashes"))
    if entry.expires is not None and entry.expires <= datetime.now(UTC):
        told["expired"] = True
    return told


def _named(entries: Entries, name: str) -> KeyEntry:
    found = next((one for one in entries if one.name == name), None)
    if found is None:
        names = ", ".join(one.name for one in entries) or "none"
        raise refuse(f"there is no key of {name}; there are: {names}", FAILED)
    return found


def _new_key() -> str:
    """A key of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def _existing_key() -> str:
    key = sys.stdin.readline().strip()
    if not key:
        raise refuse("--existing reads the key from standard input, and there is none")
    return key


def _time(text: str) -> datetime:
    if days := re.fullmatch(r"(\d{1,5})d", text):
        return datetime.now(UTC).replace(microsecond=0) + timedelta(days=int(days[1]))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise refuse(f"--expires {text!r} is not a time, such as 2030-01-31, 2030-01-31T12:00Z or 90d") from None
    if time.tzinfo is None and len(text) > len("2030-01-31"):
        raise refuse(f"--expires {text!r} has no offset, such as Z for UTC") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _read(path: Path) -> Entries:
    try:
        return read_keys(path)
    except KeysRefused as refused:
        raise refuse(str(refused), FAILED) from None


def _change(path: Path, change: Callable[[Entries], Entries], make: bool = False) -> None:
    """Replace the file by one with other entries, at once and as a whole."""
    path = path.resolve()  # a link stays
    try:
        with _alone(path.parent):
            old = None if make and not path.exists() else path.stat()
            content = written(change(() if old is None else _read(path)))
            _replace(path, content, old)
    except OSError as error:
        raise refuse(f"the keys file {path} cannot be written: {error.strerror}", FAILED) from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other command changes a file of this folder. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes, old: os.stat_result | None) -> None:
    """Write a file that its owner alone can read, or whoever could read the one before. Raises OSError."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if old is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
                os.fchmod(descriptor, old.st_mode & 0o777)
            os.fsync(descriptor)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _tell(key: str | None, what: str) -> None:
    """Print a key, alone on standard output, and what was done."""
    if key is not None:
        typer.echo(key)
        what += ". The key is shown this once"
    typer.echo(f"elman: {what}", err=True)
