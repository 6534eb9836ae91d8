"""`python -m tests.fuzz TARGET`: fuzz for some time, or run files again."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

_MAX_BYTES = 16 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=("codec", "grpc", "http"))
    parser.add_argument("files", nargs="*", type=Path, help="inputs to run once, instead of fuzzing")
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--runs", type=int, default=-1, help="most inputs, those to begin with included")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="where a bad input is left")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        target = target_of(args.target, Path(folder) / "models")
        for file in args.files:
            target(file.read_bytes())
        if not args.files:
            fuzz(target, args, write(args.target, Path(folder) / "corpus"))


def target_of(name: str, models: Path) -> Callable[[bytes], None]:
    """A target. What it imports of the project is instrumented, so that the fuzzer sees which lines run."""
    with atheris.instrument_imports(include=["elman"]):
        if name == "http":
            from tests.fuzz.connection import Connection

            return Connection()
        if name == "grpc":
            from tests.fuzz.messages import Messages

            return Messages(models)
        from tests.fuzz.bodies import Bodies

        return Bodies(models)


def write(target: str, folder: Path) -> Path:
    """Write the first inputs into a folder, one a file."""
    from tests.fuzz.corpus import seeds

    folder.mkdir()
    for number, content in enumerate(seeds(target)):
        (folder / str(number)).write_bytes(content)
    return folder


def fuzz(target: Callable[[bytes], None], args: argparse.Namespace, corpus: Path) -> None:
    """Fuzz until the time is over. The process ends with another code than 0 if something was found."""
    args.findings.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={args.seconds}", f"-runs={args.runs}", f"-seed={args.seed}", f"-max_len={_MAX_BYTES}",
        "-timeout=30",
        "-rss_limit_mb=3000", "-malloc_limit_mb=512", f"-artifact_prefix={args.findings}/", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
