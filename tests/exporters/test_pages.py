"""The examples of the pages for other frameworks run as they stand, and what they export is served."""

import os
import re
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from tests.exporters.conftest import CHOSEN, python_of
from tests.readme.blocks import FRAMEWORKS, ROOT, read_blocks
from tests.readme.test_readme import end, start

pytestmark = pytest.mark.exporters

PAGES = {page: framework for page, framework in FRAMEWORKS.items() if framework in CHOSEN}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_run_as_they_stand(page: Path, tmp_path: Path) -> None:
    port, path = free_port(), f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    blocks = read_blocks(page)
    assert {block.language for block in blocks} == {"python", "bash"}
    for block in blocks:
        script, output = tmp_path / f"example-{block.line}", tmp_path / f"output-{block.line}"
        script.write_text(re.sub(r"(localhost:|--port )8001\b", rf"\g<1>{port}", block.text), "utf-8")
        command = [str(python_of(PAGES[page]))] if block.language == "python" else ["bash", "-euo", "pipefail"]
        process = start([*command, str(script)], tmp_path, output, PATH=path)
        try:
            code = process.wait(300)
        finally:
            end(process)
        assert code == 0, f"{page.name}:{block.line} ended with {code}:\n{output.read_text()[-3000:]}"
    assert '"results":[{' in output.read_text()
