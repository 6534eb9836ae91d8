"""The virtual environments of the peers, one each under .bench/, made when first needed."""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".bench"


def _shared() -> tuple[str, ...]:
    """Packages that every peer gets in the versions that Elman uses here, for running models and reading bodies."""
    return tuple(f"{name}=={version(name)}" for name in ("onnxruntime", "numpy", "msgspec", "orjson"))


class InstallFailure(Exception):
    """An environment could not be made."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment and its pinned packages.

    `own` names the shared packages that it needs in a different version.
    """

    name: str
    packages: tuple[str, ...]
    serves: bool = True
    own: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        return BENCH / self.name / "bin" / "python"

    def make(self) -> None:
        """Make it, unless it already exists with these packages. Raises InstallFailure."""
        shared = [one for one in _shared() if one.split("==")[0] not in self.own] if self.serves else []
        packages = (*self.packages, *shared)
        # The stamp includes the Python version, which must be the same for all contenders.
        wanted = hashlib.sha256("\n".join([sys.version, sys.base_prefix, *packages]).encode()).hexdigest()
        stamp = BENCH / self.name / ".made"
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        print(f"Installing {self.packages[0]} in {BENCH.name}/{self.name}", file=sys.stderr, flush=True)
        BENCH.mkdir(exist_ok=True)
        (BENCH / ".gitignore").write_text("*\n")
        shutil.rmtree(BENCH / self.name, ignore_errors=True)
        self._call([sys.executable, "-m", "venv", str(BENCH / self.name)])
        self._call([str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        stamp.write_text(wanted)  # written last, so that an interrupted installation is repeated

    def _call(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InstallFailure(f"{self.packages[0]} cannot be installed: {done.stderr.strip()[-600:]}")


PICTURES = Environment("pictures", ("matplotlib==3.11.2",), serves=False)
