"""`python -m tests.fuzz.contract URL`: schemathesis holds a running server to its OpenAPI document.

A request that does not fit the document must be refused. One that fits it, narrowed to the models of the server
(`tests.fuzz.fitting`), must be taken. Every answer must be as documented.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from tests.fuzz.fitting import UNKNOWN, fitted, named, served_models
from tests.running import ROOT

CONFIG = Path(__file__).with_name("schemathesis.toml")
PROGRAM = Path(sys.executable).with_name("schemathesis")


def run(
    url: str, phases: str, max_examples: int, models: tuple[str, ...] = (), spare: str = UNKNOWN
) -> tuple[int, str]:
    """Run schemathesis on a server. Returns what it printed, and a code that is 0 if document and server agree.

    Args:
        phases: of schemathesis. The examples of the document are tried too.
        max_examples: most requests of each operation and kind.
        models: of the server. Without any, all that can be fitted.
        spare: another model, which is loaded and unloaded.
    """
    with tempfile.TemporaryDirectory(prefix="contract-") as folder, httpx.Client(base_url=url, timeout=60) as client:
        document, served = client.get("/openapi.json").raise_for_status().json(), served_models(client, models)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks"}
        options = ["--config-file", CONFIG, "run", "document.json", "--url", url, f"--max-examples={max_examples}"]
        code, output = 0, ""
        for mode, fit, own_phases in (("positive", fitted, f"examples,{phases}"), ("negative", named, phases)):
            Path(folder, "document.json").write_text(json.dumps(fit(document, served, spare)))
            command = [PROGRAM, *options, f"--mode={mode}", f"--phases={own_phases}"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, env=environment)
            code, output = code or done.returncode, output + done.stdout + done.stderr
    return code, output


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.contract", description=__doc__)
    parser.add_argument("url", help="such as http://127.0.0.1:8000")
    parser.add_argument("--phases", default="coverage,fuzzing,stateful")
    parser.add_argument("--max-examples", type=int, default=200)
    parser.add_argument("--spare", default=UNKNOWN, help="a model that may be unloaded, and is not there in the end")
    args = parser.parse_args()
    code, output = run(args.url, args.phases, args.max_examples, spare=args.spare)
    print(output)
    sys.exit(code)


if __name__ == "__main__":
    main()
