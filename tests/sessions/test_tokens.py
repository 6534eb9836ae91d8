"""State tokens open for whom they were sealed, for what, until when; and for nobody else."""

import base64
import os
import string
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.errors import BadStateToken, StoreUnavailable
from elman.sessions.tokens import State, StateTokens, load_or_make_key
from tests.running import ROOT

NOW = 1_700_000_000.0
STATE = State("watch", 2, b"d" * 32, b"o" * 16, 41, NOW + 60, bytes(range(200)))
TOKENS = StateTokens(["a secret", "an older one"])
TOKEN = TOKENS.seal(STATE)
TEXT = string.ascii_letters + string.digits + "-_"


def opened(token: str, tokens: StateTokens = TOKENS, now: float = NOW, **other: object) -> State:
    asked = {"model": "watch", "version": 2, "digest": b"d" * 32, "owner": b"o" * 16} | other
    return tokens.open(token, **asked, now=now, where="states[3]")  # type: ignore[arg-type]


def refused(token: str, reason: str, tokens: StateTokens = TOKENS, now: float = NOW, **other: object) -> str:
    with pytest.raises(BadStateToken, match=reason) as error:
        opened(token, tokens, now, **other)
    assert error.value.where == "states[3]"
    return error.value.detail


@given(
    snapshot=st.binary(max_size=3000),
    model=st.text(max_size=40).filter(lambda text: text.isprintable()),
    version=st.integers(1, 2**60),
    step=st.integers(0, 2**60),
    expires_at=st.floats(NOW + 1, 1e300),
)
def test_what_is_sealed_is_opened(snapshot: bytes, model: str, version: int, step: int, expires_at: float) -> None:
    state = State(model, version, os.urandom(32), os.urandom(16), step, expires_at, snapshot)
    token = TOKENS.seal(state)
    assert set(token) <= set(TEXT)
    assert TOKENS.open(token, model, version, state.digest, state.owner, NOW, None) == state


@given(at=st.integers(0, len(TOKEN) - 1), other=st.sampled_from(TEXT + "=+/ \n.é\0"))
def test_a_changed_character_is_refused(at: int, other: str) -> None:
    changed = TOKEN[:at] + other + TOKEN[at + 1 :]
    if changed != TOKEN:
        refused(changed, "not a state token|was changed")


@given(at=st.integers(0, len(TOKEN) * 3 // 4 - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused(at: int, flip: int) -> None:
    content = bytearray(base64.urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4)))
    content[at] ^= flip
    refused(base64.urlsafe_b64encode(content).rstrip(b"=").decode(), "not a state token|was changed")


def test_every_spelling_but_one_is_refused() -> None:
    # With 200 bytes of state the last character has bits to spare.
    for last in TEXT:
        if last != TOKEN[-1]:
            refused(TOKEN[:-1] + last, "not a state token|was changed")


@given(st.text(max_size=300) | st.text(TEXT, max_size=300) | st.integers(0, len(TOKEN) - 1).map(lambda n: TOKEN[:n]))
def test_what_was_never_sealed_is_refused(token: str) -> None:
    refused(token, "not a state token|was changed")


def test_two_tokens_of_one_state_have_nothing_in_common_but_the_key_they_name() -> None:
    assert TOKENS.seal(STATE)[7:] != TOKEN[7:]
    assert b"watch" not in base64.urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4))


def test_keys_are_rotated() -> None:
    older, newer = StateTokens(["an older one"]), StateTokens(["a newer one", "a secret"])
    assert opened(older.seal(STATE)) == STATE
    assert opened(TOKEN, newer) == STATE
    refused(TOKEN, "a key that this server does not have", older)
    refused(newer.seal(STATE), "a key that this server does not have")


@pytest.mark.parametrize("keys", [[], [""], ["one", ""]])
def test_there_is_no_sealing_without_a_key(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="key"):
        StateTokens(keys)


def test_a_token_expires() -> None:
    assert opened(TOKEN, now=NOW + 59.9) == STATE
    refused(TOKEN, "expired on 2023-11-14 at 22:14:20 UTC", now=NOW + 60)


def test_another_callers_token_tells_nothing_of_itself() -> None:
    for now in (NOW, NOW + 999):
        detail = refused(TOKEN, "another caller", now=now, owner=b"x" * 16, model="names")
        assert "watch" not in detail and "2023" not in detail


def test_a_token_is_of_one_file_of_one_model() -> None:
    refused(TOKEN, "belongs to the model 'watch', not to 'names'", model="names")
    refused(TOKEN, "belongs to version 2 of 'watch', not to version 3", version=3)
    refused(TOKEN, "another file of version 2 of 'watch'", digest=b"e" * 32)


def test_a_token_of_a_distant_expiry_says_when_it_was_opened_too_late() -> None:
    refused(TOKENS.seal(replace(STATE, expires_at=-1e300)), "expired on")


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "store"
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: load_or_make_key(folder), range(64)))
    assert len(keys) == 1 and len(keys.pop()) >= 43
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_processes_that_start_at_once_agree_on_a_key(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom elman.sessions.tokens import load_or_make_key\n"
        "sys.stdin.readline()\nprint(load_or_make_key(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert len({process.communicate(timeout=30)[0] for process in processes}) == 1


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 50])
def test_a_damaged_key_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.key").write_bytes(content)
    with pytest.raises(StoreUnavailable, match="damaged"):
        load_or_make_key(tmp_path)
    assert (tmp_path / "state.key").read_bytes() == content


def test_a_key_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreUnavailable, match="key of state tokens"):
        load_or_make_key(tmp_path / "file")
