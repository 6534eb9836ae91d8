"""The command as pip installs it: without extras, and in folders whose files are called as ours are or were."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from elman import __version__
from tests.installing import clean_environment

pytestmark = pytest.mark.slow

ARGUMENTS = {
    "server": (
        "serve my-models", "demo", "models my-models", "check model.onnx", "predict names-gru", "forecast names-gru",
        "generate names-gru", "bench model.onnx",
    ),
    "train": ("export net.py:model out.onnx --example-shape 1,4,3",),
}  # fmt: skip

NET = """
import models, service.client, settings, utils
from elman import Client
from service.elsewhere import SIZE

model = models.build(SIZE)
assert (service.client.Client, settings.NAME, utils.NAME) == ("theirs", "theirs", "theirs")
assert Client.__module__.startswith("elman.")
"""

MODELS = """
from torch import nn


class Tagger(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.rnn, self.head = nn.GRU(size, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def build(size=3):
    return Tagger(size)
"""

LOOK = """
import elman, models, service.client
from elman import Client, create_app
print(service.client.Client, Client.__module__, create_app.__module__, models.__name__, elman.__file__)
"""


def run(*command: str, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=cwd, env=clean_environment(**variables), capture_output=True, text=True, timeout=300
    )


def elman(python: str) -> str:
    return str(Path(python).with_name("elman"))


def test_the_wheel_holds_the_package_and_the_demo_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert {name.split("/")[0] for name in sizes} == {"elman", f"elman-{__version__}.dist-info"}
    demo = {name: size for name, size in sizes.items() if name.startswith("elman/demo/")}
    assert sorted(name for name in demo if name.endswith("model.onnx")) == [
        f"elman/demo/{name}/1/model.onnx"
        for name in ("names-gru", "names-lstm-generator", "sunspots-gru", "vowels-gru")
    ]
    assert 500_000 < sum(demo.values()) < 1_000_000


def test_help_and_version_need_no_extra(installed: str, tmp_path: Path) -> None:
    for command in ((elman(installed),), (installed, "-m", "elman")):
        version = run(*command, "--version", cwd=tmp_path)
        assert (version.returncode, version.stdout) == (0, f"elman {__version__}\n"), version.stderr
    assert "Commands:" in run(elman(installed), "--help", cwd=tmp_path).stdout
    for command in ("serve", "export"):
        helped = run(elman(installed), command, "--help", cwd=tmp_path)
        assert (helped.returncode, helped.stderr) == (0, "")


@pytest.mark.parametrize(("extra", "line"), [(extra, line) for extra, lines in ARGUMENTS.items() for line in lines])
def test_a_command_names_the_extra_that_it_lacks(installed: str, tmp_path: Path, extra: str, line: str) -> None:
    done = run(elman(installed), *line.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"pip install 'elman[{extra}]'" in done.stderr and len(done.stderr.splitlines()) == 1


def put_project(folder: Path, package: bool) -> None:
    """A project with a package `service`, and with models.py or a package `models`."""
    (folder / "service").mkdir()
    (folder / "service" / "__init__.py").write_text("")
    (folder / "service" / "client.py").write_text("Client = 'theirs'\n")
    (folder / "service" / "elsewhere.py").write_text("SIZE = 3\n")
    for name in ("settings", "utils", "app", "client", "engine", "errors"):
        (folder / f"{name}.py").write_text("NAME = 'theirs'\n")
    models = folder / "models" / "__init__.py" if package else folder / "models.py"
    models.parent.mkdir(exist_ok=True)
    models.write_text(MODELS)
    (folder / "net.py").write_text(NET)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("package", "on_path"), [(False, False), (True, True)], ids=["models.py", "models/ on the path"]
)
def test_a_project_may_have_models_and_service_of_its_own(
    installed_with_extras: str, tmp_path: Path, package: bool, on_path: bool
) -> None:
    put_project(tmp_path, package)
    variables = {"PYTHONPATH": "."} if on_path else {}
    python = installed_with_extras
    looked = run(python, "-c", LOOK, cwd=tmp_path, **variables)
    assert looked.returncode == 0, looked.stderr
    theirs, *ours, models, file = looked.stdout.split()
    assert (theirs, models) == ("theirs", "models")
    assert all(name.startswith("elman.") for name in ours) and file.startswith(str(Path(python).parents[1]))
    # Either way to name a module, each in one of the folders.
    source = "models:build" if package else "net.py:model"
    exported = run(
        elman(python), "export", source, "my-models/tagger", "--example-shape", "1,4,3", cwd=tmp_path, **variables
    )
    assert exported.returncode == 0, exported.stderr
    checked = run(python, "-m", "elman", "check", "my-models/tagger", cwd=tmp_path, **variables)
    assert checked.returncode == 0 and "1 x gru, hidden size 8" in checked.stdout, checked.stderr


@pytest.mark.torch
def test_a_file_may_be_called_as_a_library_is(installed_with_extras: str, tmp_path: Path) -> None:
    python = installed_with_extras
    for name in ("elman.py", "onnx.py", "queue.py"):
        (tmp_path / name).write_text(MODELS)
    asked = ("export", "elman.py:build", "tagger.onnx", "--example-shape", "1,4,3")
    exported = run(elman(python), *asked, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    checked = run(elman(python), "check", "tagger.onnx", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr + checked.stdout
