"""What each operator does with rows and steps.

A rule gives the axes of a node's results and says where rows or steps are combined. Whatever a rule does not expect
raises, and the node is then taken to combine everything.
"""

from collections.abc import Iterable
from dataclasses import replace

from onnx import NodeProto

from elman.repository.graph import attribute
from elman.repository.graph_axes import (
    BATCH,
    NOTHING,
    TIME,
    Axis,
    Factor,
    Kind,
    Scrambled,
    Traced,
    aligned,
    is_steps,
    kinds_of,
    plain_axis,
    reshaped,
)
from elman.repository.graph_loops import scan
from elman.repository.graph_trace import Rule, Tracer, axis_index
from elman.repository.recurrent_rules import quantised_recurrent, recurrent
from elman.repository.resets import kept_through

_END = 2**31 - 1  # a Slice up to here goes to the end


def _elementwise(tracer: Tracer, node: NodeProto) -> list[Traced]:
    axes, combines = _broadcast(tracer, [name for name in node.input if name])
    kept = kept_through(tracer, node)
    result = replace(tracer.combined(node, node.input, axes, combines, keeps=bool(kept)), carried=kept)
    return [result] + [result] * (len(node.output) - 1)


def _broadcast(tracer: Tracer, names: list[str]) -> tuple[list[Axis], set[Kind]]:
    parts = [tracer.at(name).axes for name in names]
    found = [aligned(column) for column in _columns(parts, max(map(len, parts), default=0))]
    return [axis for axis, _ in found], {kind for _, kinds in found for kind in kinds}


def _columns(parts: list[tuple[Axis, ...]], rank: int) -> list[list[Axis]]:
    padded: list[tuple[Axis, ...]] = [((),) * (rank - len(axes)) + axes for axes in parts]
    return [[axes[at] for axes in padded] for at in range(rank)]


def _identity(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source = tracer.at(node.input[0])
    return [replace(tracer.moved(node, source.axes), elements=source.elements)]


def _transpose(tracer: Tracer, node: NodeProto) -> list[Traced]:
    axes = tracer.at(node.input[0]).axes
    perm = attribute(node, "perm", list(range(len(axes)))[::-1])
    return [tracer.moved(node, [axes[at] for at in perm])]


def _reshape(tracer: Tracer, node: NodeProto) -> list[Traced]:
    """Reshape, Flatten, Squeeze and Unsqueeze: the shape that was seen says all."""
    source, shapes = tracer.at(node.input[0]), tracer.seen(node.output[0])
    if shapes is None:
        raise Scrambled
    result = tracer.moved(node, reshaped(source.axes, shapes))
    sizes = tracer.combined(node, node.input[:1], result.axes, sizes=node.input[1:], keeps=True)
    elements = source.elements if len(result.axes) < 2 else None
    return [replace(sizes, carried=result.carried, elements=elements)]


def _expand(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source, shapes = tracer.at(node.input[0]).axes, tracer.seen(node.output[0])
    if shapes is None:
        raise Scrambled
    followed = tracer.followed(node.output[0])
    axes = [old or new for old, new in zip(((),) * (len(followed) - len(source)) + source, followed, strict=True)]
    return [tracer.combined(node, node.input[:1], axes, sizes=node.input[1:])]


def _filled(tracer: Tracer, node: NodeProto) -> list[Traced]:
    return [tracer.combined(node, [], tracer.followed(node.output[0]), sizes=node.input)]


def _shape(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source = tracer.at(node.input[0])
    elements = tuple(kinds_of(axis) for axis in source.axes)[attribute(node, "start", 0) : attribute(node, "end", None)]
    if node.op_type == "Size":
        elements = (source.kinds,)
    axes = tracer.followed(node.output[0])
    if source.loose:
        return [tracer.combined(node, node.input, axes, {BATCH, TIME})]
    return [_of_sizes(tracer.combined(node, [], axes), elements)]


def _of_sizes(traced: Traced, elements: tuple[frozenset[Kind], ...]) -> Traced:
    return replace(traced, sized=NOTHING.union(*elements), elements=elements)


def _range(tracer: Tracer, node: NodeProto) -> list[Traced]:
    return [tracer.combined(node, node.input, tracer.followed(node.output[0]))]


def _matmul(tracer: Tracer, node: NodeProto) -> list[Traced]:
    one, other = (tracer.at(name).axes for name in _factors(node))
    wide, tall = ((), *one) if len(one) == 1 else one, (*other, ()) if len(other) == 1 else other
    batch = [aligned(column) for column in _columns([wide[:-2], tall[:-2]], max(len(wide), len(tall)) - 2)]
    inner, kinds = aligned([wide[-1], tall[-2]])
    axes = [axis for axis, _ in batch] + [wide[-2]] * (len(one) > 1) + [tall[-1]] * (len(other) > 1)
    return [tracer.combined(node, node.input, axes, kinds | kinds_of(inner) | _all(kinds for _, kinds in batch))]


def _factors(node: NodeProto) -> tuple[str, str]:
    """The two tensors that a product is of."""
    return (node.input[0], node.input[3]) if node.op_type == "QLinearMatMul" else (node.input[0], node.input[1])


def _all(kinds: Iterable[frozenset[Kind]]) -> frozenset[Kind]:
    return NOTHING.union(*kinds)


def _gemm(tracer: Tracer, node: NodeProto) -> list[Traced]:
    one, other = (tracer.at(name).axes for name in node.input[:2])
    one = one[::-1] if attribute(node, "transA", 0) else one
    other = other[::-1] if attribute(node, "transB", 0) else other
    added = tracer.at(node.input[2]).axes if len(node.input) > 2 and node.input[2] else ()
    inner, kinds = aligned([one[1], other[0]])
    outer = [aligned(column) for column in _columns([(one[0], other[1]), added], 2)]
    combines = kinds | kinds_of(inner) | _all(kinds for _, kinds in outer)
    return [tracer.combined(node, node.input, [axis for axis, _ in outer], combines)]


def _einsum(tracer: Tracer, node: NodeProto) -> list[Traced]:
    terms, _, result = str(attribute(node, "equation")).replace(" ", "").partition("->")
    if not result or "." in terms + result or not (terms + result).replace(",", "").isalpha():
        raise Scrambled
    letters: dict[str, list[Axis]] = {}
    for term, name in zip(terms.split(","), node.input, strict=True):
        for letter, axis in zip(term, tracer.at(name).axes, strict=True):
            letters.setdefault(letter, []).append(axis)
    found = {letter: aligned(axes) for letter, axes in letters.items()}
    summed = [kinds_of(axis) for letter, (axis, _) in found.items() if letter not in result]
    combines = _all(summed) | _all(kinds for _, kinds in found.values())
    return [tracer.combined(node, node.input, [found[letter][0] for letter in result], combines)]


def _along(tracer: Tracer, node: NodeProto, axes: list[int], *, keep: bool, drop: bool = False) -> list[Traced]:
    """An operator that works along some axes, and keeps them, makes them 1, or drops them."""
    source = tracer.at(node.input[0]).axes
    worked = {axis % len(source) for axis in axes}
    combines = kinds_of(*(source[axis] for axis in worked))
    left = [axis if keep or at not in worked else () for at, axis in enumerate(source) if not (drop and at in worked)]
    result = tracer.combined(node, [name for name in node.input if name], left, combines)
    return [result] * len(node.output)


def _softmax(tracer: Tracer, node: NodeProto) -> list[Traced]:
    rank, old = len(tracer.at(node.input[0]).axes), tracer.graph.opset < 13
    axis = axis_index(node, "axis", 1 if old else -1, rank)
    return _along(tracer, node, list(range(axis, rank)) if old else [axis], keep=True)


def _normalised(tracer: Tracer, node: NodeProto) -> list[Traced]:
    rank = len(tracer.at(node.input[0]).axes)
    first = {"InstanceNormalization": 2, "GroupNormalization": 1}.get(node.op_type)
    first = axis_index(node, "axis", -1, rank) if first is None else first
    if node.op_type == "LpNormalization":
        return _along(tracer, node, [first], keep=True)
    if node.op_type == "LayerNormalization":
        # Scale and bias are aligned at the end, as in any broadcast.
        axes, combines = _broadcast(tracer, list(node.input))
        found = _along(tracer, node, list(range(first, rank)), keep=True)[0]
        return [tracer.combined(node, node.input, axes, combines | kinds_of(*found.axes[first:]))]
    return _along(tracer, node, list(range(first, rank)), keep=True)


def _dropout(tracer: Tracer, node: NodeProto) -> list[Traced]:
    """Dropout as it is served, which drops nothing."""
    training = tracer.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if len(node.output) > 1 or (len(node.input) > 2 and node.input[2] and (training is None or training.any())):
        raise Scrambled
    return _identity(tracer, node)


def _per_channel(tracer: Tracer, node: NodeProto) -> list[Traced]:
    """BatchNormalization as it is served: a scale for each channel. In training it takes those of the batch."""
    axes = tracer.at(node.input[0]).axes
    if attribute(node, "training_mode", 0) or len(node.output) > 1:
        raise Scrambled
    return [tracer.combined(node, node.input, axes, kinds_of(*axes[1:2]))]


def _reduce(tracer: Tracer, node: NodeProto) -> list[Traced]:
    rank = len(tracer.at(node.input[0]).axes)
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        value = tracer.constant(node.input[1])
        if value is None:
            raise Scrambled
        axes = value.reshape(-1).tolist()
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        return _elementwise(tracer, node)
    return _along(tracer, node, list(axes or range(rank)), keep=False, drop=not attribute(node, "keepdims", 1))


def _argument(tracer: Tracer, node: NodeProto) -> list[Traced]:
    rank = len(tracer.at(node.input[0]).axes)
    axis = axis_index(node, "axis", 0, rank)
    return _along(tracer, node, [axis], keep=False, drop=not attribute(node, "keepdims", 1))


def _cumulative(tracer: Tracer, node: NodeProto) -> list[Traced]:
    axis = tracer.constant(node.input[1])
    if axis is None:
        raise Scrambled
    return _along(tracer, node, [int(axis.reshape(()))], keep=True)


def _top(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source = tracer.at(node.input[0]).axes
    axis = axis_index(node, "axis", -1, len(source))
    axes = list(source)
    axes[axis] = tracer.followed(node.output[0])[axis]
    return [tracer.combined(node, node.input, axes, kinds_of(source[axis]))] * 2


def _concat(tracer: Tracer, node: NodeProto) -> list[Traced]:
    parts = [tracer.at(name).axes for name in node.input]
    axis = axis_index(node, "axis", 0, len(parts[0]))
    found = [aligned([axes[at] for axes in parts]) for at in range(len(parts[0]))]
    along = kinds_of(*(axes[axis] for axes in parts)) if len(parts) > 1 else NOTHING
    axes = [one for one, _ in found]
    axes[axis] = parts[0][axis] if len(parts) == 1 else _resized(tracer, node.output[0], axis, along)
    combines = along | _all(kinds for at, (_, kinds) in enumerate(found) if at != axis)
    carried = frozenset[str]()
    if all(tracer.at(name).carried for name in node.input):
        carried = frozenset().union(*(tracer.at(name).carried for name in node.input))
    return [replace(tracer.combined(node, node.input, axes, combines, keeps=bool(carried)), carried=carried)]


def _resized(tracer: Tracer, name: str, axis: int, kinds: frozenset[Kind]) -> Axis:
    """An axis of a result whose extent is another than its source's, and what it counts still."""
    seen = tracer.seen(name)
    if seen is None:
        raise Scrambled
    extents = tuple(shape[axis] for shape in seen)
    kind: Kind = TIME if TIME in kinds else BATCH if BATCH in kinds else ""
    return (Factor(kind, extents),) if kind and set(extents) != {1} else tracer.follow(extents) if not kind else ()


def _split(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source = tracer.at(node.input[0])
    axis = axis_index(node, "axis", 0, len(source.axes))
    kinds = kinds_of(source.axes[axis]) if len(node.output) > 1 else NOTHING
    results = []
    for name in node.output:
        axes = list(source.axes)
        axes[axis] = _resized(tracer, name, axis, kinds_of(source.axes[axis]))
        results.append(tracer.moved(node, axes, kinds))
    return results


def _slice(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source = tracer.at(node.input[0])
    bounds = _slice_bounds(tracer, node, len(source.axes))
    if bounds is None:
        if source.kinds:
            raise Scrambled
        return [tracer.combined(node, node.input, tracer.followed(node.output[0]))]
    axes, combines, edge = list(source.axes), set[Kind](), False
    for axis, (start, end, step) in bounds.items():
        whole = start == 0 and end >= _END and step == 1
        if whole or not axes[axis]:
            continue
        if start == -1 and end >= _END and step == 1 and is_steps(axes[axis]):
            axes[axis], edge = (), True
            continue
        combines |= kinds_of(axes[axis])
        axes[axis] = _resized(tracer, node.output[0], axis, kinds_of(axes[axis]))
    elements = None
    if source.elements is not None and list(bounds) == [0]:
        start, end, step = bounds[0]
        elements = source.elements[start:end:step]
    result = tracer.moved(node, axes, combines, edge=edge)
    return [result if elements is None else _of_sizes(result, elements)]


def _slice_bounds(tracer: Tracer, node: NodeProto, rank: int) -> dict[int, tuple[int, int, int]] | None:
    """Start, end and step by axis; None where they are not constants."""
    if len(node.input) == 1:
        starts, ends, axes = (attribute(node, name) for name in ("starts", "ends", "axes"))
        steps = None
    else:
        values = [tracer.constant(name) for name in node.input[1:]]
        if any(value is None for value, name in zip(values, node.input[1:], strict=True) if name):
            return None
        starts, ends, axes, steps = [None if v is None else v.reshape(-1).tolist() for v in [*values, None, None][:4]]
    axes = axes if axes is not None else list(range(len(starts)))
    steps = steps or [1] * len(starts)
    return {axis % rank: (s, e, step) for s, e, axis, step in zip(starts, ends, axes, steps, strict=True)}


def _gather(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source, index = tracer.at(node.input[0]), tracer.at(node.input[1])
    axis = axis_index(node, "axis", 0, len(source.axes))
    value = tracer.constant(node.input[1])
    axes = (*source.axes[:axis], *index.axes, *source.axes[axis + 1 :])
    if source.elements is not None and value is not None:
        chosen = tuple(source.elements[int(i)] for i in value.reshape(-1))
        return [_of_sizes(tracer.combined(node, [], axes, sizes=node.input[:1]), chosen)]
    last = value is not None and value.size == 1 and int(value.reshape(-1)[0]) == -1 and is_steps(source.axes[axis])
    combines = NOTHING if last else kinds_of(source.axes[axis])
    carried = source.carried if value is not None else frozenset()
    return [replace(tracer.combined(node, node.input, axes, combines, edge=last, keeps=bool(carried)), carried=carried)]


def _gather_elements(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source, index = (tracer.at(name).axes for name in node.input)
    axis = axis_index(node, "axis", 0, len(source))
    found = [aligned(pair) for pair in zip(source, index, strict=True)]
    axes = [index[at] if at == axis else one for at, (one, _) in enumerate(found)]
    combines = kinds_of(source[axis]) | _all(kinds for at, (_, kinds) in enumerate(found) if at != axis)
    return [tracer.combined(node, node.input, axes, combines)]


def _one_hot(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source = tracer.at(node.input[0]).axes
    at = int(attribute(node, "axis", -1)) % (len(source) + 1)
    shapes = tracer.seen(node.output[0])
    if shapes is None or any(tracer.at(name).reads for name in node.input[1:]):
        raise Scrambled
    new = plain_axis(tuple(shape[at] for shape in shapes))
    return [tracer.combined(node, node.input, [*source[:at], new, *source[at:]])]


def _pad(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source = tracer.at(node.input[0]).axes
    given = tracer.constant(node.input[1]) if len(node.input) > 1 else None
    pads = list(attribute(node, "pads", []) or ([] if given is None else given.reshape(-1).tolist()))
    if len(node.input) > 3 or len(pads) != 2 * len(source):
        raise Scrambled
    padded = [at for at in range(len(source)) if pads[at] or pads[at + len(source)]]
    axes = [
        _resized(tracer, node.output[0], at, kinds_of(axis)) if at in padded else axis for at, axis in enumerate(source)
    ]
    return [tracer.combined(node, node.input, axes, kinds_of(*(source[at] for at in padded)))]


def _reverse_steps(tracer: Tracer, node: NodeProto) -> list[Traced]:
    """ReverseSequence: each row is turned round as far as it says, on its own."""
    axes, lengths = tracer.at(node.input[0]).axes, tracer.at(node.input[1]).axes
    time, batch = (axis_index(node, f"{name}_axis", at, len(axes)) for at, name in enumerate(("time", "batch")))
    _, combines = aligned([axes[batch], lengths[0]])
    alone = axes[batch] == lengths[0]
    return [tracer.combined(node, node.input, axes, kinds_of(axes[time]) | (NOTHING if alone else combines))]


def _tile(tracer: Tracer, node: NodeProto) -> list[Traced]:
    source, shapes = tracer.at(node.input[0]).axes, tracer.seen(node.output[0])
    if shapes is None:
        raise Scrambled
    followed = tracer.followed(node.output[0])
    if any(kinds_of(old) and new != old for old, new in zip(source, followed, strict=True)):
        raise Scrambled
    axes = [old if kinds_of(old) else new for old, new in zip(source, followed, strict=True)]
    combines = _all(kinds_of(new) for old, new in zip(source, followed, strict=True) if old and not kinds_of(old))
    return [tracer.combined(node, node.input[:1], axes, combines, sizes=node.input[1:])]


def _window(tracer: Tracer, node: NodeProto) -> list[Traced]:
    """Convolution and pooling: a window over each spatial axis, and for a convolution over all channels."""
    rows, channels, *spatial = tracer.at(node.input[0]).axes
    convolves = "Conv" in node.op_type
    shapes = tracer.seen(node.output[0])
    if shapes is None or (convolves and tracer.at(node.input[1]).reads) or node.op_type.startswith("QLinear"):
        raise Scrambled
    kernel = attribute(node, "kernel_shape") or [
        axis[0].extents[0] if axis else 1 for axis in tracer.at(node.input[1]).axes[2:]
    ]
    pads = attribute(node, "pads", [0] * 2 * len(spatial))
    strides = attribute(node, "strides", [1] * len(spatial))
    narrow = [k == 1 and s == 1 for k, s in zip(kernel, strides, strict=True)]
    narrow = [one and not (pads[at] or pads[at + len(spatial)]) for at, one in enumerate(narrow)]
    narrow = [one and not attribute(node, "output_padding") for one in narrow]
    combines = (kinds_of(channels) if convolves else NOTHING) | _all(
        kinds_of(axis) for axis, one in zip(spatial, narrow, strict=True) if not one
    )
    out = plain_axis(tuple(shape[1] for shape in shapes)) if convolves else channels
    axes = [
        axis if one else _resized(tracer, node.output[0], at + 2, kinds_of(axis))
        for at, (axis, one) in enumerate(zip(spatial, narrow, strict=True))
    ]
    # The places that pooling gives beside its values count through the rows, and all that they hold.
    places = [tracer.combined(node, node.input, [rows, out, *axes], {BATCH, TIME}) for _ in node.output[1:]]
    return [tracer.combined(node, node.input, [rows, out, *axes], combines), *places]


def _pool_whole(tracer: Tracer, node: NodeProto) -> list[Traced]:
    rank = len(tracer.at(node.input[0]).axes)
    return _along(tracer, node, list(range(2, rank)), keep=False)


def _scaled_whole(tracer: Tracer, node: NodeProto) -> list[Traced]:
    """DynamicQuantizeLinear: its scale is taken over all that it is given."""
    axes = tracer.at(node.input[0]).axes
    return [tracer.combined(node, node.input, axes, {BATCH, TIME})] + [
        tracer.combined(node, node.input, (), {BATCH, TIME}) for _ in node.output[1:]
    ]


def _scaled(tracer: Tracer, node: NodeProto) -> list[Traced]:
    """QuantizeLinear and DequantizeLinear, with a scale for all or one for each channel."""
    axes = tracer.at(node.input[0]).axes
    if any(tracer.at(name).axes not in ((), ((),)) for name in node.input[1:] if name):
        return [tracer.combined(node, node.input, axes, kinds_of(axes[axis_index(node, "axis", 1, len(axes))]))]
    return [tracer.combined(node, node.input, axes)]


_ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Celu Clip "
    "Cos Cosh Div Elu Equal Erf Exp FastGelu Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN "
    "LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QuickGelu Reciprocal Relu Round "
    "Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
).split()
_REDUCING = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
).split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCING, _reduce),
    **dict.fromkeys(("Identity", "Cast", "CastLike"), _identity),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), recurrent),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(
        ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization"), _normalised
    ),
    **dict.fromkeys(("ArgMax", "ArgMin"), _argument),
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _matmul),
    **dict.fromkeys(("Conv", "ConvInteger", "MaxPool", "AveragePool", "LpPool"), _window),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _pool_whole),
    **dict.fromkeys(("Shape", "Size"), _shape),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _scaled),
    "BatchNormalization": _per_channel,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "CumSum": _cumulative,
    "Dropout": _dropout,
    "DynamicQuantizeLSTM": quantised_recurrent,
    "DynamicQuantizeLinear": _scaled_whole,
    "Einsum": _einsum,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gemm": _gemm,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "ReverseSequence": _reverse_steps,
    "Scan": scan,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "TopK": _top,
    "Transpose": _transpose,
}
