"""Which model file a path means."""

from pathlib import Path

import pytest
import typer

from elman.cli.jobs.model_files import files_below, model_file, names_of


def test_of_a_folder_of_models_one_is_suggested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("tagger", "namer"):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "1" / "model.onnx").touch()
    with pytest.raises(typer.Exit):
        model_file(tmp_path / "models")
    assert capsys.readouterr().err.endswith(f"give one of them, such as {tmp_path / 'models' / 'namer'}\n")


@pytest.mark.parametrize("version", [None, "3"])
def test_a_configuration_may_give_the_model_file_another_name(tmp_path: Path, version: str | None) -> None:
    folder = tmp_path / "tagger"
    for number in ("1", "3", "20"):
        (folder / number).mkdir(parents=True)
        (folder / number / ("model.onnx" if number == "20" else "net.onnx")).touch()
    (folder / "config.pbtxt").write_text('default_model_filename: "net.onnx"')
    found = model_file(folder if version is None else folder / version)
    assert (found, names_of(found)) == (folder / "3" / "net.onnx", ("tagger", "3"))
    assert files_below(folder) == []
    (folder / "config.pbtxt").write_text('default_model_filename: "../net.onnx"')  # cannot be followed
    assert model_file(folder) == folder / "20" / "model.onnx"
