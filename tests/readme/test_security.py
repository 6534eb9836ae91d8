"""SECURITY.md names the tests of each of its promises."""

import re

from tests.running import ROOT

PAGE = (ROOT / "SECURITY.md").read_text("utf-8")


def test_every_promise_names_tests_that_there_are() -> None:
    promises = re.findall(r"^- \*\*(.+?)\.\*\*", PAGE, re.MULTILINE)
    rows = dict(re.findall(r"^\| ([A-Z][^|]+?) \| (`tests/.+) \|$", PAGE, re.MULTILINE))
    assert len(promises) >= 12 and list(rows) == promises
    for named in rows.values():
        assert all((ROOT / path).exists() for path in re.findall(r"`(.+?)`", named)), named
