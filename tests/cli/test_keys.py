"""`elman keys`: the file of named API keys."""

import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from elman.cli.jobs.keys import add_key
from elman.http.callers import Callers, owner_of_key
from elman.http.keys import MOST_HASHES, KeysFile, read_keys
from tests.cli.command import elman


def keys(folder: Path, *arguments: object, given: str = "", code: int = 0) -> str:
    """What the command prints on standard output, or on standard error where it fails."""
    done = elman("keys", *arguments, cwd=folder, given=given, api_keys_file="keys.json")
    assert done.returncode == code, done.stderr
    return (done.stderr if code else done.stdout).strip()


def opens(folder: Path, key: str) -> bool:
    headers = {b"authorization": f"Bearer {key}".encode()}
    try:
        Callers([], [], KeysFile(folder / "keys.json")).admit(headers, "infer")
    except Exception:
        return False
    return True


def test_a_key_is_made_replaced_and_revoked(tmp_path: Path) -> None:
    first = keys(tmp_path, "add", "alice", "--roles", "infer, sessions", "--steps-per-second", 1000)
    assert re.fullmatch(r"elman_[\w-]{43}", first) and opens(tmp_path, first)
    file = tmp_path / "keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and first not in file.read_text()
    second = keys(tmp_path, "rotate", "alice")
    assert second != first and opens(tmp_path, first) and opens(tmp_path, second)
    (listed,) = json.loads(keys(tmp_path, "list", "--json"))
    assert listed == {"name": "alice", "roles": ["infer", "sessions"], "steps_per_second": 1000.0, "keys": 2}
    keys(tmp_path, "revoke", "alice", "--old")
    assert opens(tmp_path, second) and not opens(tmp_path, first)
    keys(tmp_path, "revoke", "alice")
    assert read_keys(file) == () and keys(tmp_path, "list") == ""
    assert [one.name for one in tmp_path.iterdir()] == ["keys.json"]


def test_a_key_without_a_name_gets_one_and_keeps_its_sessions(tmp_path: Path) -> None:
    assert keys(tmp_path, "add", "alice", "--roles", "infer", "--existing", given="old-key\n") == ""
    assert opens(tmp_path, "old-key")
    keys(tmp_path, "rotate", "alice")
    (entry,) = read_keys(tmp_path / "keys.json")
    assert entry.owner_bytes == owner_of_key("old-key")
    again = keys(tmp_path, "add", "bob", "--roles", "infer", "--existing", given="old-key\n", code=1)
    assert "has a name already" in again and "old-key" not in again


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("2030-01-31", "2030-01-31T00:00:00Z"), ("2030-01-31T12:00+02:00", "2030-01-31T12:00:00+02:00")],
)
def test_a_key_may_have_an_end(tmp_path: Path, given: str, wanted: str) -> None:
    keys(tmp_path, "add", "alice", "--roles", "infer", "--expires", given)
    keys(tmp_path, "add", "bob", "--roles", "infer", "--expires", "0d")
    alice, bob = json.loads(keys(tmp_path, "list", "--json"))
    assert alice["expires"] == wanted and bob["expired"] is True
    assert "expired True" in keys(tmp_path, "list")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("add", "al ice", "--roles", "infer"), 2, r"\$.name"),
        (("add", "bob", "--roles", "infer,root"), 2, "'root'"),
        (("add", "bob", "--roles", ""), 2, r"\$.roles"),
        (("add", "bob", "--roles", "infer", "--expires", "soon"), 2, "2030-01-31"),
        (("add", "bob", "--roles", "infer", "--expires", "2030-01-31T12:00"), 2, "no offset"),
        (("add", "bob", "--roles", "infer", "--requests-per-second", 0), 2, r"\$.requests_per_second"),
        (("add", "bob", "--roles", "infer", "--existing"), 2, "standard input"),
        (("add", "alice", "--roles", "infer"), 1, "there already"),
        (("rotate", "bob"), 1, "no key of bob; there are: alice"),
        (("revoke", "bob"), 1, "no key of bob"),
        (("rotate", "alice", "--file", "other.json"), 1, "cannot be written|cannot be read"),
        (("add", "bob", "--roles", "infer", "--file", "no/where.json"), 1, "cannot be written"),
    ],
)
def test_what_is_not_possible_is_told_in_a_line_and_changes_nothing(
    tmp_path: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    keys(tmp_path, "add", "alice", "--roles", "infer")
    before = (tmp_path / "keys.json").read_bytes()
    told = keys(tmp_path, *arguments, code=code)
    assert re.search(words, told) and len(told.splitlines()) == 1
    assert (tmp_path / "keys.json").read_bytes() == before


def test_a_file_that_is_broken_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text('{"keys": [')
    file.chmod(0o600)
    for command in (("add", "alice", "--roles", "infer"), ("rotate", "alice"), ("revoke", "alice"), ("list",)):
        assert "not valid" in keys(tmp_path, *command, code=1)
    assert file.read_text() == '{"keys": ['


def test_a_name_has_a_bounded_number_of_keys(tmp_path: Path) -> None:
    keys(tmp_path, "add", "alice", "--roles", "infer")
    for _ in range(MOST_HASHES - 1):
        keys(tmp_path, "rotate", "alice")
    assert "--old" in keys(tmp_path, "rotate", "alice", code=1)
    assert len(read_keys(tmp_path / "keys.json")[0].hashes) == MOST_HASHES


def test_a_replaced_file_keeps_its_mode_and_a_link_stays(tmp_path: Path) -> None:
    keys(tmp_path, "add", "alice", "--roles", "infer")
    (tmp_path / "keys.json").rename(tmp_path / "real.json")
    (tmp_path / "real.json").chmod(0o640)
    (tmp_path / "keys.json").symlink_to("real.json")
    keys(tmp_path, "rotate", "alice")
    assert (tmp_path / "keys.json").is_symlink()
    assert stat.S_IMODE((tmp_path / "real.json").stat().st_mode) == 0o640
    assert len(read_keys(tmp_path / "real.json")[0].hashes) == 2


def test_commands_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    names = [f"name-{index}" for index in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: add_key(tmp_path / "keys.json", name, "infer", None, {}, False), names))
    assert {one.name for one in read_keys(tmp_path / "keys.json")} == set(names)


def test_without_a_file_the_command_says_so(tmp_path: Path) -> None:
    done = elman("keys", "list", cwd=tmp_path)
    assert done.returncode == 2 and "ELMAN_API_KEYS_FILE" in done.stderr
