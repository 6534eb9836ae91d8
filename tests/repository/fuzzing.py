"""Fuzzed model files, and the child process that loads them.

    python tests/repository/fuzzing.py FOLDER FIRST END

writes case after case into FOLDER, loads each, and adds a line of JSON before and after to FOLDER/report.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import graphs
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

SECRET = b"these bytes lie outside the folder of the model"
MEMORY = 6 * 2**30

Mutation = Callable[[ModelProto, Random, Path], ModelProto | bytes]

BASES: tuple[Callable[[], ModelProto], ...] = (
    lambda: graphs.tagger("LSTM", states=("h0", "c0"), finals=("hn", "cn")),
    lambda: graphs.tagger("GRU"),
    lambda: graphs.tagger("RNN", finals=("hn",)),
    graphs.letters,
    graphs.branched,
    lambda: graphs.mixing_cell(("a", "b"), ("a_out", "b_out")),
)

EXTENTS = (0, 1, 2, 3, 5, 7, -1, -(2**31), 255, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
OPERATORS = (
    "If Loop Scan LSTM GRU RNN MatMul Softmax Conv Gather GatherND Reshape Squeeze Concat Split Slice Expand Tile "
    "ConstantOfShape Range NonZero Where Constant Identity Cast Pad Resize Einsum SequenceAt Optional StringNormalizer"
).split()
NAMES = (
    "", "elman.lengths", "elman.select", "elman.h", "input", "output", "steps", "y4", "a\0b", "h0", "🙂", "x" * 9999,
)  # fmt: skip
SPECS = (
    "", "null", "[]", "{", '"text"', '{"input": 3}', '{"input": {"size": 0}}', '{"input": {"size": 1e99}}',
    '{"input": {"kind": "frames"}}', '{"input": {"kind": "frames", "size": 3, "stride": 9}}',
    '{"input": {"kind": "frames", "size": 1000000000000, "stride": 1}}', '{"input": {"kind": "tokens"}}',
    '{"input": {"name": "output"}}', '{"input": {"name": "h0"}}', '{"input": {"batch_axis": 1}}',
    '{"input": {"time_axis": 0, "batch_axis": 0}}', '{"input": {"size": 999999999999}}', '{"state": []}',
    '{"state": [{"input": "h0", "output": "cn"}, {"input": "c0", "output": "hn"}]}',
    '{"state": [{"input": "h0", "output": "hn", "batch_axis": 9}]}',
    '{"state": [{"input": "h0", "output": "hn", "batch_axis": 0}]}',
    '{"state": [{"input": "h0", "output": "hn"}, {"input": "h0", "output": "hn"}]}',
    '{"state": [{"input": "input", "output": "output"}]}',
    '{"state": [{"input": "h0", "output": "hn", "initial": "W"}]}',
    '{"outputs": []}', '{"outputs": ["output", "output"]}', '{"outputs": ["hn"]}', '{"outputs": ["input"]}',
    '{"constants": {"input": 0}}', '{"constants": {"h0": []}}', '{"constants": {"h0": {"a": [null]}}}',
    '{"constants": {"h0": [[[1, 2], [3]]]}}', '{"constants": {"rate": 1e400}}', '{"constants": {"rate": "16000"}}',
    '{"constants": {"rate": 16000}}', '{"constants": {"rate": [[16000]]}}', '{"decoder": {"kind": "tokens"}}',
    '{"decoder": {"kind": "values", "mean": [0], "std": [0]}}', '{"initial_state": "learned"}',
    '{"constants": ' + "[" * 3000 + "]" * 3000 + "}",
)  # fmt: skip


# Mutations of the bytes


def flip(proto: ModelProto, random: Random, folder: Path) -> bytes:
    content = bytearray(proto.SerializeToString())
    for _ in range(random.choice((1, 1, 2, 5, 20, 200))):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(content)


def flip_structure(proto: ModelProto, random: Random, folder: Path) -> bytes:
    """Flips outside the weights, where they change what the graph is."""
    content = bytearray(proto.SerializeToString())
    first = content.find(proto.graph.node[0].op_type.encode())
    last = content.rfind(proto.graph.node[-1].output[0].encode())
    for _ in range(random.choice((1, 2, 4))):
        content[random.randrange(max(first - 40, 0), max(last, first + 1))] = random.randrange(256)
    return bytes(content)


def truncate(proto: ModelProto, random: Random, folder: Path) -> bytes:
    content = proto.SerializeToString()
    return content[: random.randrange(len(content))]


def splice(proto: ModelProto, random: Random, folder: Path) -> bytes:
    content = proto.SerializeToString()
    one, other = sorted(random.randrange(len(content)) for _ in range(2))
    return random.choice((content[:one] + content[other:], content[:other] + content[one:], content[one:] + content))


# Mutations of the graph


def drop_nodes(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    for _ in range(random.choice((1, 1, 2, 3))):
        if proto.graph.node:
            del proto.graph.node[random.randrange(len(proto.graph.node))]
    return proto


def shuffle_nodes(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    nodes = list(proto.graph.node)
    random.shuffle(nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def rewire(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    names = [name for node in proto.graph.node for name in (*node.input, *node.output)] + list(NAMES)
    for _ in range(random.choice((1, 2, 3))):
        node = random.choice(proto.graph.node)
        side = random.choice((node.input, node.output))
        if side:
            side[random.randrange(len(side))] = random.choice(names)
    return proto


def ports(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    """More or fewer inputs and outputs of a node than it takes."""
    node = random.choice(proto.graph.node)
    side = random.choice((node.input, node.output))
    if random.random() < 0.5 and side:
        del side[random.randrange(len(side)) :]
    else:
        side.extend(random.choice(NAMES) for _ in range(random.choice((1, 3, 9))))
    return proto


def declare(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    """Other shapes and types of the graph's inputs and outputs."""
    values = [*proto.graph.input, *proto.graph.output]
    for value in random.sample(values, random.randint(1, len(values))):
        way, tensor = random.randrange(5), value.type.tensor_type
        if way == 0:
            tensor.elem_type = random.choice((0, 2, 6, 7, 8, 9, 10, 11, 14, 16, 21, 99))
        elif way == 1:
            tensor.ClearField("shape")
        elif way == 2:
            value.type.sequence_type.elem_type.tensor_type.elem_type = 1
        elif way == 3:
            tensor.shape.dim.add().dim_value = random.choice(EXTENTS)
        elif tensor.shape.dim:
            random.choice(tensor.shape.dim).dim_value = random.choice(EXTENTS)
    return proto


def reshape_weights(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    if not proto.graph.initializer:
        return proto
    tensor = random.choice(proto.graph.initializer)
    way = random.randrange(5)
    if way == 0 and tensor.dims:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice(EXTENTS)
    elif way == 1:
        tensor.dims.append(random.choice(EXTENTS))
    elif way == 2:
        tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)]
    elif way == 3:
        tensor.data_type = random.choice((0, 2, 7, 8, 9, 10, 14, 16, 21, 23, 99))
    else:
        # A shape or an axis of another value; floats of any bits, NaN and infinities among them.
        tensor.raw_data = random.randbytes(len(tensor.raw_data))
    return proto


def alter_attribute(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    nodes = [node for node in proto.graph.node if node.attribute]
    node = random.choice(nodes or list(proto.graph.node))
    if node.attribute and random.random() < 0.3:
        del node.attribute[random.randrange(len(node.attribute))]
    name = random.choice(
        ["hidden_size", "direction", "activations", "clip", "layout", "perm", "axis", "linear_before_reset", "foo"]
        + [item.name for item in node.attribute]
    )
    kept = [item for item in node.attribute if item.name != name]
    value = random.choice(
        [
            *(*EXTENTS, b"forward", b"reverse", b"bidirectional", b"\xff", b"", 0.5, float("nan"), []),
            *([0, 0, 0], [2, 1, 0], [b"Tanh"], [b"Sigmoid", b"Tanh", b"Tanh"], [b"Foo"] * 9, [7, -9]),
        ]
    )
    del node.attribute[:]
    node.attribute.extend(kept)
    if value == []:
        node.attribute.add(name=name, type=random.randrange(16))
    else:
        node.attribute.append(helper.make_attribute(name, value))
    return proto


def other_operator(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    node = random.choice(proto.graph.node)
    node.op_type = random.choice([*OPERATORS, "", "Foo"])
    if random.random() < 0.2:
        node.domain = random.choice(("ai.onnx", "com.microsoft", "ai.onnx.ml", "com.evil", "\0"))
    return proto


def other_version(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    way = random.randrange(4)
    if way == 0:
        proto.opset_import[0].version = random.choice((0, -1, 1, 6, 7, 9, 11, 12, 13, 14, 21, 26, 999, 2**62))
    elif way == 1:
        proto.ir_version = random.choice((0, -1, 1, 3, 99, 2**62))
    elif way == 2:
        del proto.opset_import[:]
    else:
        proto.opset_import.extend([proto.opset_import[0]] * random.choice((1, 500)))
    return proto


def duplicate(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    graph = proto.graph
    group = random.choice((graph.node, graph.input, graph.output, graph.initializer))
    if group:
        group.append(random.choice(group))
    if random.random() < 0.3 and graph.initializer:
        graph.input.append(helper.make_tensor_value_info(random.choice(graph.initializer).name, 1, None))
    return proto


def rename(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    value = random.choice([*proto.graph.input, *proto.graph.output])
    new = random.choice(NAMES)
    for node in proto.graph.node:
        for side in (node.input, node.output):
            for index, name in enumerate(side):
                if name == value.name:
                    side[index] = new
    value.name = new
    return proto


def costly(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    """Nodes that ask for more memory or time than there is."""
    kind = random.randrange(4)
    extent = random.choice((2**16, 2**28, 2**33, 2**45, 2**62))
    source = proto.graph.input[0].name
    if kind == 0:
        nodes = [helper.make_node("ConstantOfShape", ["big"], ["bomb"])]
        tensors = [graphs.constant("big", [extent])]
    elif kind == 1:
        nodes = [helper.make_node("Expand", ["bomb_one", "big"], ["bomb"])]
        tensors = [graphs.constant("big", [extent, 1, 1]), graphs.constant("bomb_one", [1], np.float32)]
    elif kind == 2:
        nodes = [helper.make_node("Range", ["zero", "big", "step"], ["bomb"])]
        tensors = [graphs.constant("zero", 0), graphs.constant("big", extent), graphs.constant("step", 1)]
    else:
        body = helper.make_graph(
            [helper.make_node("Identity", ["again"], ["go_on"])],
            "body",
            [graphs.value("i", [], TensorProto.INT64), graphs.value("again", [], TensorProto.BOOL)],
            [graphs.value("go_on", [], TensorProto.BOOL)],
        )
        nodes = [helper.make_node("Loop", ["big", "true"], [], body=body)]
        tensors = [graphs.constant("big", extent), graphs.constant("true", True, np.bool_)]
        proto.graph.node.extend(nodes)
        proto.graph.initializer.extend(tensors)
        return proto
    used = helper.make_node("Shape", ["bomb"], ["bomb_shape"])
    cast = helper.make_node("Cast", ["bomb_shape"], ["bomb_float"], to=1)
    last = proto.graph.node[-1]
    old, last.output[0] = last.output[0], "before_bomb"
    to = helper.make_node("Cast", ["before_bomb"], ["before_float"], to=1)
    add = helper.make_node("Add", ["before_float", "bomb_float"], [old])
    proto.graph.node.extend([*nodes, used, cast, to, add])
    proto.graph.initializer.extend(tensors)
    assert source
    return proto


def nest(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    """Graphs in graphs, and functions that call themselves or each other."""
    if random.random() < 0.5:
        inner = helper.make_graph([helper.make_node("Identity", ["input"], ["deep"])], "g", [], [])
        for _ in range(random.choice((2, 20, 90))):
            node = helper.make_node("If", ["cond"], ["deep"], then_branch=inner, else_branch=inner)
            inner = helper.make_graph([node], "g", [], [graphs.value("deep", None)])
            if inner.ByteSize() > 2**15:
                break
        proto.graph.node.extend(inner.node)
        return proto
    domain = random.choice(("local", "", "com.microsoft"))
    for name, calls in random.choice(((("f", "f"),), (("f", "g"), ("g", "f")), (("f", "Identity"), ("f", "Identity")))):
        proto.functions.append(
            helper.make_function(
                domain,
                name,
                ["x"],
                ["y"],
                [helper.make_node(calls, ["x"], ["y"], domain="" if calls == "Identity" else domain)],
                [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
            )
        )
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.graph.node.append(helper.make_node("f", ["input"], ["called"], domain=domain))
    return proto


def embed_spec(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    proto.metadata_props.add(key="elman", value=random.choice(SPECS))
    return proto


def spec_beside(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    content = random.choice(SPECS).encode()
    if random.random() < 0.2:
        content += b"\xff\xfe\0"
    (folder / "model.json").write_bytes(content)
    return proto


# External data


def leave_folder(proto: ModelProto, random: Random, folder: Path) -> ModelProto:
    """A tensor anywhere in the file that is said to lie outside the folder."""
    secret = folder.parent / "secret.bin"
    secret.write_bytes(SECRET * 40)
    location = random.choice(
        (
            "../secret.bin", str(secret), "link.bin", "hard.bin", "sub/secret.bin", "./../secret.bin",
            "sub/../../secret.bin", "a/../../secret.bin", "..\\secret.bin", "file://" + str(secret), "", ".", "..", "/",
            "/dev/zero", "/proc/self/mem", "/etc/passwd",
            "secret.bin", "fifo", "\0", "C:\\secret.bin", "//" + str(secret), "~/secret.bin", "*",
            "secret.bin\0.bin", "x" * 5000, "link.bin/", "sub",
        )
    )  # fmt: skip
    _links(folder, secret)
    tensor = TensorProto(name="leak", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    offset = random.choice(("0", "0", "4", "-4", "99999999", "x", "", str(2**63)))
    length = random.choice(("16", "16", "0", "-1", "99999999", "x", None, str(2**62)))
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        if text is not None:
            tensor.external_data.add(key=key, value=text)
    _place(proto, tensor, random)
    return proto


def _links(folder: Path, secret: Path) -> None:
    for path, make in (
        (folder / "link.bin", lambda path: path.symlink_to(secret)),
        (folder / "sub", lambda path: path.symlink_to(secret.parent)),
        (folder / "hard.bin", lambda path: os.link(secret, path)),
        (folder / "fifo", os.mkfifo),
    ):
        make(path)


def _place(proto: ModelProto, tensor: TensorProto, random: Random) -> None:
    """Put a tensor where a graph may hold one, and read it on the way to the output."""
    graph = proto.graph
    where = random.randrange(6)
    last = graph.node[-1]
    old, last.output[0] = last.output[0], "before_leak"
    reading = [
        helper.make_node("ReduceSum", ["leaked"], ["leak_sum"], keepdims=0),
        helper.make_node("Add", ["before_leak", "leak_sum"], [old]),
    ]
    made = helper.make_node("Constant", [], ["leaked"])
    made.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    if where == 0:
        tensor.name = "leaked"
        graph.initializer.append(tensor)
    elif where == 1:
        reading.insert(0, made)
    elif where == 2:
        branch = helper.make_graph([made], "branch", [], [graphs.value("leaked", None)])
        graph.initializer.append(graphs.constant("yes", True, np.bool_))
        reading.insert(0, helper.make_node("If", ["yes"], ["leaked"], then_branch=branch, else_branch=branch))
    elif where == 3:
        opsets = [helper.make_opsetid("", 17)]
        proto.functions.append(helper.make_function("local", "Leak", [], ["leaked"], [made], opsets))
        proto.opset_import.append(helper.make_opsetid("local", 1))
        reading.insert(0, helper.make_node("Leak", [], ["leaked"], domain="local"))
    elif where == 4:
        sparse = graph.sparse_initializer.add(dims=[8])
        tensor.name = "leaked"
        sparse.values.CopyFrom(tensor)
        sparse.indices.CopyFrom(graphs.constant("", [0, 1, 2, 3]))
    else:
        # The weights themselves.
        weight = next((one for one in graph.initializer if one.data_type == TensorProto.FLOAT), None)
        if weight is not None:
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.extend(tensor.external_data)
        last.output[0] = old
        return
    graph.node.extend(reading)


MUTATIONS: tuple[Mutation, ...] = (
    flip, flip, flip_structure, flip_structure, truncate, splice, drop_nodes, drop_nodes, shuffle_nodes, rewire, rewire,
    ports, declare, declare, reshape_weights, reshape_weights, alter_attribute, alter_attribute, other_operator,
    other_version, duplicate, rename, costly, nest, embed_spec, spec_beside, leave_folder, leave_folder, leave_folder,
)  # fmt: skip


def write_case(number: int, folder: Path) -> str:
    """Write the fuzzed file of a number into an empty folder; returns what was done to which base."""
    random = Random(number)
    base = number // len(MUTATIONS) % len(BASES)
    mutation = MUTATIONS[number % len(MUTATIONS)]
    proto = BASES[base]()
    if base == 4 and mutation is not spec_beside and random.random() < 0.8:
        (folder / "model.json").write_text('{"constants": {"rate": 16000}}')
    mutated = mutation(proto, random, folder)
    if isinstance(mutated, ModelProto):
        if random.random() < 0.15:
            mutated = random.choice(MUTATIONS[6:20])(mutated, random, folder)
    content = mutated if isinstance(mutated, bytes) else mutated.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    return f"{mutation.__name__} of base {base}"


# The child process


def watch_reads(reads: list[str]) -> None:
    """Note each file that Python opens to read."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes) and arguments[1] != "w":
            reads.append(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace"))

    sys.addaudithook(hook)


def main(root: Path, first: int, end: int) -> None:
    from elman.errors import ModelRefused
    from elman.repository.model import Model
    from elman.repository.model_file import load_model

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reads: list[str] = []
    watch_reads(reads)

    def tell(line: dict[str, object]) -> None:
        with (root / "report").open("a") as report:
            report.write(json.dumps(line) + "\n")

    for number in range(first, end):
        folder = root / str(number) / "1"
        folder.mkdir(parents=True)
        what = write_case(number, folder)
        tell({"number": number, "what": what})
        reads.clear()
        started = time.perf_counter()
        try:
            model = load_model(folder / "model.onnx", "fuzzed", 1)
            assert isinstance(model, Model)
            outcome = "leaked" if SECRET[:16] in model.network.model else "loaded"
        except ModelRefused as refused:
            outcome = "leaked" if SECRET[:8].decode() in str(refused) else f"refused: {refused}"
        except BaseException as error:
            outcome = f"raised {type(error).__name__}: {error} at {_place_of(error)}"
        outside = [path for path in reads if str(root) in path and not path.startswith(str(folder))]
        outside += [path for path in reads if path.startswith(("/etc/passwd", "/dev/zero", "/proc/self/mem"))]
        if outside or any("link.bin" in path or "hard.bin" in path for path in reads):
            outcome = f"read outside: {outside or reads}"
        took = time.perf_counter() - started
        tell({"number": number, "outcome": outcome[:600], "seconds": round(took, 3)})


def _place_of(error: BaseException) -> str:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(frames[1:][-6:])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
