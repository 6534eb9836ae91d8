"""`python -m tests.fuzz.contract URL`: schemathesis holds a running server to its OpenAPI document.

What the document cannot say is put into it first: the models of this server, and what a sequence of each may be. Then
every request that fits the document must be taken, every other refused, and every answer be as documented.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

CONFIG = Path(__file__).with_name("schemathesis.toml")
QUICK = ("--phases", "examples,fuzzing", "--max-examples", "6")
LONG = ("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "200")


def known_models(url: str) -> list[str]:
    models: list[dict[str, Any]] = httpx.get(f"{url}/v1/models", timeout=60).raise_for_status().json()["models"]
    return [str(one["name"]) for one in models]


def document_of(url: str) -> dict[str, Any]:
    """The document of a server, with the names of its models, and one that it does not have."""
    document: dict[str, Any] = httpx.get(f"{url}/openapi.json", timeout=60).raise_for_status().json()
    document = copy.deepcopy(document)
    names = [*known_models(url), "nobody"]
    for path, one in _parameters(document):
        if one["in"] == "path" and one["name"] == "name" and "/models/" in path:
            one["schema"] = {"type": "string", "enum": names}
    return document


def _parameters(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for operation in item.values():
            for one in operation.get("parameters", []):
                yield path, one


def run(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run schemathesis on a server. The code is not 0 if document and server differ anywhere."""
    with tempfile.TemporaryDirectory(prefix="contract-") as folder:
        file = Path(folder) / "openapi.json"
        file.write_text(json.dumps(document_of(url)))
        program = str(Path(sys.executable).with_name("schemathesis"))
        command = [program, "--config-file", str(CONFIG), "run", str(file), "--url", url, *options]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.contract", description=__doc__)
    parser.add_argument("url", help="such as http://127.0.0.1:8000")
    parser.add_argument("options", nargs="*", default=LONG, help="of `schemathesis run`, after --")
    args = parser.parse_args()
    done = run(args.url, *args.options)
    print(done.stdout, done.stderr)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
