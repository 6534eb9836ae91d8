"""The axes of every tensor of a graph, carried from its inputs through each operator.

What is known of an operator is written down in `graph_rules`. Of an operator that is not written down there, every
result is taken to combine all rows and all steps.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from onnx import NodeProto

from elman.repository.graph import Graph, attribute, reads
from elman.repository.graph_axes import (
    BATCH,
    NOTHING,
    TIME,
    Axis,
    Factor,
    Kind,
    Scrambled,
    Traced,
    extents_of,
    kinds_of,
    plain_axis,
)
from elman.repository.network import Array

Shapes = Mapping[str, tuple[int, ...]]
Rule = Callable[["Tracer", NodeProto], Sequence[Traced | None]]


def node_label(node: NodeProto) -> str:
    """How a refusal names a node: its operator and its name, or the tensor that it makes."""
    return f"{node.op_type} node {node.name or next((name for name in node.output if name), '?')!r}"


class Tracer:
    """Goes through a graph once, node by node.

    Args:
        graph: the graph, as the probes ran it.
        inputs: what is known of its inputs.
        shapes: of every tensor that a node makes, for each probe; of inputs too.
        clock: the extents of the batch and of the time axis in the probes. An extent that the probes do not vary
            tells nothing, and is left out.
        values: of the tensors that depend on an input, in each probe.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, Traced],
        shapes: Sequence[Shapes],
        clock: Mapping[Kind, tuple[int, ...]],
        values: Sequence[Mapping[str, Array]],
    ) -> None:
        self.graph = graph
        self.shapes = shapes
        self.clock = clock
        self.values = values
        self.tensors = dict(inputs)
        # What the graph goes over in a recurrent node, a Scan or a Loop, and the node that does it. The kind "" is an
        # axis of the data that counts neither rows nor steps.
        self.scanned: dict[Kind, str] = {}
        # Whether the graph is the body of a node, which is run anew for each step of that.
        self.nested = False
        self.rules: Mapping[str, Rule] = {}

    def trace(self, rules: Mapping[str, Rule]) -> dict[str, Traced]:
        """Every tensor, by name."""
        self.rules = rules
        for node in self.graph.proto.node:
            if node.op_type == "Constant":
                continue
            results: Sequence[Traced | None]
            try:
                results = rules.get(node.op_type, Tracer.unknown)(self, node)
            except (Scrambled, IndexError, TypeError, ValueError, AttributeError):
                results = self.unknown(node)
            for name, result in zip(node.output, results, strict=False):
                if name:
                    self.tensors[name] = self._checked(node, name, result)
        return self.tensors

    def _checked(self, node: NodeProto, name: str, result: Traced | None) -> Traced:
        """A result whose axes are those of the tensor that was seen, or one of which nothing is known."""
        shapes = self.seen(name)
        if result is not None and not (shapes is None and result.reads):
            found = tuple(extents_of(axis, len(self.shapes)) for axis in result.axes)
            if shapes is None or found == tuple(zip(*shapes, strict=True)):
                return result
        return replace(self.combined(node, reads(node), self.followed(name), {BATCH, TIME}), loose=True)

    def unknown(self, node: NodeProto) -> list[Traced]:
        """The results of an operator that may combine everything."""
        names = reads(node)
        found = [self.combined(node, names, self.followed(name), {BATCH, TIME}) for name in node.output]
        return [replace(one, loose=one.reads) for one in found]

    # What the rules are made of

    def goes_over(self, node: NodeProto, name: str, axis: Axis) -> None:
        """Note that a node goes over an axis of a tensor, step by step."""
        kinds: frozenset[Kind] = kinds_of(axis)
        if not kinds and axis and self.at(name).reads:
            kinds = frozenset({""})
        for kind in kinds:
            self.scanned.setdefault(kind, node_label(node))

    def at(self, name: str) -> Traced:
        """What is known of a tensor; constants have axes of their own."""
        if name not in self.tensors:
            shapes = self.seen(name)
            value = self.constant(name) if shapes is None else None
            if value is not None:
                shapes = [value.shape] * len(self.shapes)
            self.tensors[name] = Traced(tuple(plain_axis(e) for e in zip(*(shapes or []), strict=True)))
        return self.tensors[name]

    def every(self, name: str) -> list[Array]:
        """The values of a tensor in each probe. Raises Scrambled where they were not kept."""
        value = self.graph.constant(name)
        found = [value] * len(self.shapes) if value is not None else [v[name] for v in self.values if name in v]
        if len(found) != len(self.shapes):
            raise Scrambled
        return found

    def inside(
        self,
        graph: Graph,
        inputs: Mapping[str, Traced],
        shapes: Sequence[Shapes],
        values: Sequence[Mapping[str, Array]],
    ) -> "Tracer":
        """A graph within a node of this one, traced."""
        inner = Tracer(graph, inputs, shapes, self.clock, values)
        inner.nested = True
        inner.trace(self.rules)
        return inner

    def seen(self, name: str) -> list[tuple[int, ...]] | None:
        """The shapes of a tensor in the probes; None where it was not seen, or changed its rank."""
        found = [shapes[name] for shapes in self.shapes if name in shapes]
        return found if len(found) == len(self.shapes) and len({len(shape) for shape in found}) == 1 else None

    def constant(self, name: str) -> Array | None:
        """The value of a tensor that is the same whatever is read, of whatever size; None for any other."""
        value = self.graph.constant(name) if name else None
        traced = self.tensors.get(name)
        if value is None and traced is not None and not traced.reads and not traced.sized:
            return self.values[0].get(name)
        return value

    def followed(self, name: str) -> tuple[Axis, ...]:
        """The axes of a tensor by how its extents followed the probes."""
        return tuple(self.follow(extents) for extents in zip(*(self.seen(name) or []), strict=True))

    def follow(self, extents: tuple[int, ...]) -> Axis:
        """An axis by how its extent followed the probes. What follows on another clock is taken for time."""
        kind: Kind = next((kind for kind, of in self.clock.items() if of == extents), "")
        if not kind and len(set(extents)) > 1:
            kind = TIME
        return (Factor(kind, extents),) if kind else plain_axis(extents)

    def combined(
        self,
        node: NodeProto,
        names: Iterable[str],
        axes: Sequence[Axis],
        combines: Iterable[Kind] = (),
        *,
        edge: bool = False,
        sizes: Iterable[str] = (),
        keeps: bool = False,
    ) -> Traced:
        """A tensor that a node makes of the values of others.

        A state, or the number of steps, is another one in each part of a sequence that is cut. It may be moved to
        where something recurs; what else is made of it holds for the whole sequence alone.

        Args:
            names: the tensors whose values it is made from.
            axes: its axes.
            combines: what the node combines: rows, steps or both.
            edge: whether the node picks one end of the sequence.
            sizes: tensors that only say how large it is.
            keeps: whether a state is still that state.
        """
        parts = [self.at(name) for name in names if name]
        sources = parts + [part for name in sizes if name and (part := self.at(name)).reads]
        sized = frozenset[Kind]().union(*(part.sized for part in parts))
        reading = any(part.reads for part in sources)
        edge = edge or any(part.edge for part in parts)
        counted: list[Kind] = [factor.kind for axis in axes for factor in axis if factor.kind]
        cut = set(combines) | {kind for kind in counted if counted.count(kind) > 1}
        if reading:
            cut |= sized
        if (edge and TIME in counted) or (not keeps and any(part.carried for part in parts)):
            cut.add(TIME)
        label = node_label(node)
        return Traced(
            tuple(axes),
            reads=reading,
            mixes=_first(part.mixes for part in sources) or (label if TIME in cut and reading else None),
            strangers=_first(part.strangers for part in sources) or (label if BATCH in cut and reading else None),
            ahead=_first(part.ahead for part in sources),
            edge=edge,
            sized=NOTHING if reading else sized,
            loose=any(part.loose for part in sources),
        )

    def moved(
        self, node: NodeProto, axes: Sequence[Axis], combines: Iterable[Kind] = (), *, edge: bool = False
    ) -> Traced:
        """A tensor that is nothing but the first input of a node, moved."""
        carried = self.at(node.input[0]).carried
        return replace(self.combined(node, node.input[:1], axes, combines, edge=edge, keeps=True), carried=carried)


def _first(found: Iterable[str | None]) -> str | None:
    return next((one for one in found if one), None)


def axis_index(node: NodeProto, name: str, default: int, rank: int) -> int:
    """An attribute that names an axis, from 0."""
    return int(attribute(node, name, default)) % max(rank, 1)
