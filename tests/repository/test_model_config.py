"""The text form of Triton's model configuration: what is read, what is named, and what is refused with its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.errors import ModelRefused
from elman.repository.model_config import as_json, model_config, parse_config

CONFIG = """
name: "tagger"  # the folder
platform: 'onnxruntime' "_onnx"; max_batch_size: 8
input [ { name: "INPUT" data_type: TYPE_FP32 dims: [ -1, 4 ] format: FORMAT_NONE } ]
instance_group [ { kind: KIND_CPU count: 2 } ]
optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  direct { minimum_slot_utilization: 0.5 }
  control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] } ]
}
parameters: { key: "a" value: { string_value: "b" } }
[some.extension] { x: 1 } max_batchsize: 4
version_policy: { specific { versions: [1, 3] } }
"""


def test_what_has_a_meaning_is_read_and_what_has_none_is_named_by_its_path():
    read = parse_config(CONFIG.encode())
    assert read.ignored == (
        "input.format",
        "instance_group",
        "optimization",
        "sequence_batching.direct.minimum_slot_utilization",
        "[...]",
        "max_batchsize",
    )
    found = as_json(read.message)
    assert found["input"][0] | {"optional": None} == {
        "name": "INPUT",
        "data_type": "TYPE_FP32",
        "dims": [-1, 4],
        "optional": None,
    }
    assert (found["platform"], found["max_batch_size"]) == ("onnxruntime_onnx", 8)
    assert found["parameters"] == {"a": {"string_value": "b"}}
    assert found["version_policy"] == {"specific": {"versions": [1, 3]}}
    batching = found["sequence_batching"]
    assert batching["max_sequence_idle_microseconds"] == 5000000
    assert batching["direct"] == {} and "oldest" not in batching
    assert batching["control_input"][0]["control"][0]["kind"] == "CONTROL_SEQUENCE_START"
    assert model_config(read.message.SerializeToString()) == read.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('name: "x"\nname: "y"', 'line 2: Message type "ModelConfig" should not have multiple "name" fields.'),
        ("\n\nmax_batch_size: 99999999999", "line 3: Value out of range: 99999999999"),
        ("input {\n data_type: TYPE_FOO }", 'line 2: Enum type "DataType" has no value named TYPE_FOO.'),
        ("input [ { dims: [1, }", "line 1: Couldn't parse integer: }"),
        ('name: "x', "line 1: String missing ending quote: '\"x'"),
        ("foo {" * 5000, "line 1: messages lie more than 32 deep in each other"),
        ("foo: " + "[" * 5000, "line 1: messages lie more than 32 deep in each other"),
        ("# " + "x" * 70000, "it has 70002 characters, more than 65536"),
        (b"name: 'a'\n\xff\xfe\x00", "line 2: it is no text in UTF-8"),
        ("\x00\x01", "line 1: Expected identifier or number, got \x00."),
        ("}", "line 1: Expected identifier or number, got }."),
        ("sequence_batching { direct {}\noldest {} }", 'line 2: Field "oldest" is specified along with field "direct"'),
    ],
)
def test_a_text_that_is_none_is_refused_with_its_line(text, reason):
    with pytest.raises(ModelRefused) as refusal:
        parse_config(text if isinstance(text, bytes) else text.encode())
    assert refusal.value.reason.startswith(f"config.pbtxt: {reason}")
    assert len(refusal.value.reason) < 400


@given(st.data())
def test_a_damaged_text_is_read_or_refused_and_nothing_else(data):
    """Pieces of a sound text are taken out, doubled, or replaced by what else a text may hold."""
    pieces = CONFIG.split(" ")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(pieces) - 1))
        pieces[at] = data.draw(
            st.sampled_from(["", pieces[at] * 2, "{", "}", "[", "]", ":", '"', "-1", "1e999", "x"]) | st.text()
        )
    try:
        read = parse_config(" ".join(pieces).encode("utf-8", "surrogatepass"))
    except ModelRefused as refusal:
        assert refusal.reason.startswith("config.pbtxt: ")
    else:
        assert all(isinstance(name, str) for name in read.ignored)
