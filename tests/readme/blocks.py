"""The pages, and the fenced blocks of each."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
"""The pages whose examples and tables are tested here."""

FRAMEWORKS = {
    DOCS / "from-keras.md": "keras",
    DOCS / "from-darts.md": "darts",
    DOCS / "from-stable-baselines3.md": "sb3",
    DOCS / "from-unity-ml-agents.md": "mlagents",
}
"""Pages whose examples need another framework: tests/exporters runs them."""

CLIENTS = DOCS / "clients.md"
"""The page whose examples need other projects' clients: tests/clients runs them."""

RUN = ("bash", "python")
SHOWN = ("mermaid",)
"""Blocks of these languages are drawings."""


@dataclass(frozen=True)
class Block:
    """A block as it stands, and the answer that the page shows for it, if any."""

    line: int
    language: str
    text: str
    answer: str | None = None

    @property
    def needs_docker(self) -> bool:
        return "docker " in self.text


def read_blocks(page: Path = README) -> list[Block]:
    """Every fenced block that is run; a `json` block is the answer of the one before it."""
    content = page.read_text("utf-8")
    blocks: list[Block] = []
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", content, re.MULTILINE | re.DOTALL):
        line, language, text = content.count("\n", 0, found.start()) + 1, found[1], found[2]
        if language in RUN:
            blocks.append(Block(line, language, text))
        elif language == "json" and blocks and blocks[-1].answer is None:
            last = blocks.pop()
            blocks.append(Block(last.line, last.language, last.text, text))
        elif language not in SHOWN:
            raise ValueError(f"{page.name}:{line}: a block of {language or 'no language'!r} that nothing runs")
    return blocks
