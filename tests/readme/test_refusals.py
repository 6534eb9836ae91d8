"""Each reason for a refusal is on the page of refusals, with what to do."""

import re

from tests.readme.blocks import DOCS
from tests.readme.refusals import reasons

PAGE = (DOCS / "refusals.md").read_text("utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \| (.+) \|$", PAGE, re.MULTILINE)


def test_the_page_has_the_reasons_that_the_code_has() -> None:
    in_code = reasons()
    listed = [reason for reason, _ in ROWS]
    assert {reason: in_code[reason] for reason in in_code.keys() - set(listed)} == {}
    assert sorted(listed) == sorted(in_code)
