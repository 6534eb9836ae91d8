"""The parts of docs/scale.md that are measured: workers, Ray, and what many sessions need."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.on_ray import FORMS, WAYS
from benchmarks.report import number, table
from benchmarks.scale import LIVE, RATE, SHARE, STORES

_MIB = 2**20
_GIB = 2**30
_US = 1e6


def _about(results: dict[str, Any], where: str) -> str:
    found, settings = results["machine"], results["settings"]
    return (
        f"Measured {found['date']} in {found['minutes']:.1f} minutes on {found['cpu']} with {found['cores']} cores, by "
        f"`{results['command']}`: {where}; medians of {settings['rounds']} rounds of {settings['seconds']:g} s. "
        f"The load average before the run was {found['load_before']:.1f}."
    )


def _median(rounds: Sequence[dict[str, Any]], figure: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(map(figure, rounds))


def _rate(one: dict[str, Any]) -> float:
    return float(one["num_done"] / one["seconds"])


def _cpu(one: dict[str, Any]) -> float:
    """Processor time of a request, in microseconds."""
    return float(_US * one["server_cpu"] / max(one["num_done"], 1))


def _p99(one: dict[str, Any]) -> float:
    """In milliseconds."""
    return float(1e3 * one["p99"])


def workers(results: dict[str, Any]) -> str:
    """One worker and two, as Markdown."""
    head = ["model", "workers", "requests/s", "CPU µs a request", "p99, ms", "memory, MiB", "of it allocated, MiB"]
    rows = []
    for one in results["models"].values():
        for count, found in one["workers"].items():
            figures = [_median(found["rounds"], each) for each in (_rate, _cpu, _p99)]
            sizes = [found["pss"] / _MIB, found["anonymous"] / _MIB]
            rows.append([one["title"], count, *map(number, [*figures, *sizes])])
    lines = [
        f"- {one['title']}, a file of {one['file'] / _MIB:.1f} MiB: {one['copies']['loaded'] / _MIB:.1f} MiB for two "
        f"processes that both load it, {one['copies']['forked'] / _MIB:.1f} MiB where one is a fork of the other."
        for one in results["models"].values()
    ]
    load = "the server and the load generator share all cores, so with as many workers as cores it takes from them"
    return "\n\n".join(
        [
            _about(results, load),
            f"JSON of {results['settings']['connections']} connections in a closed loop. Memory is that of all "
            "processes of the server, with shared pages in proportion (PSS). Several workers have a supervisor too:\n\n"
            + table(head, rows),
            "Each worker has its own copy of the models. What a copy costs, in ONNX Runtime alone, beyond a process "
            "without a model:\n\n" + "\n".join(lines),
        ]
    )


def ray(results: dict[str, Any]) -> str:
    """Directly and on Ray Serve, as Markdown."""
    head = ["model", "format", "requests/s, direct", "on Ray", "of direct", "CPU µs a request, direct", "on Ray"]
    head += ["p99, direct, ms", "on Ray, ms"]
    rows = []
    for one in results["models"].values():
        for form in FORMS:
            rates, cpus, tails = (
                [_median(one["forms"][form][way], each) for way in WAYS] for each in (_rate, _cpu, _p99)
            )
            rows.append(
                [
                    one["title"],
                    "JSON" if form == "json" else "octet",
                    *map(number, rates),
                    f"{rates[1] / rates[0]:.2f}",
                    *map(number, [*cpus, *tails]),
                ]
            )
    sizes = [results["pss"][way] / _MIB for way in WAYS]
    load = "the servers and the load generator share all cores"
    return (
        f"{_about(results, load)}\n\n{results['settings']['connections']} connections in a closed loop, one process of "
        f"`elman serve` and one replica behind Ray's proxy. The processor time is that of all their processes:\n\n"
        f"{table(head, rows)}\n\nMemory of the processes (PSS): {sizes[0]:,.0f} MiB directly, {sizes[1]:,.0f} MiB on "
        "Ray."
    )


def scale(results: dict[str, Any]) -> str:
    """Costs of a step, the lines through them, the simulation, and the projection, as Markdown."""
    load = "the server on one core, Redis and the load on another"
    return "\n\n".join(
        [
            _about(results, load),
            _costs(results),
            _lines(results),
            _open_loops(results),
            *(_projection(results, name) for name in results["models"]),
        ]
    )


def _costs(results: dict[str, Any]) -> str:
    head = ["model", "bytes of a state", "store", "CPU µs a step", "of the store's process", "calls a step"]
    head += ["bytes a session", "steps/s"]
    rows = []
    for one in results["models"].values():
        for store in STORES:
            found = one["stores"][store]
            size = {"redis": found["redis_bytes"], "lmdb": found["file_bytes"]}.get(store)
            of_redis = [_US * found["redis_cpu"], found["calls"]] if store == "redis" else [None, None]
            figures = [_US * found["cpu"], *of_redis, size, found["rate"]]
            cells = ["" if one is None else number(one) for one in figures]
            rows.append([one["title"], f"{one['state']:,}", store, *cells])
    settings = results["settings"]
    return (
        f"Steps of {settings['live']:,} sessions, one a request, {settings['connections']} connections in a closed "
        "loop. A replica sends the steps that it has at once in one call, so there is less than a call a step. A "
        "session has two states, its entry in the index of its owner, and what the store needs for it:\n\n"
        f"{table(head, rows, words=3)}"
    )


def _lines(results: dict[str, Any]) -> str:
    fitted = results["fit"]
    head, rows = ["cost", "fixed, µs", "each, µs", "of"], []
    for name, line in fitted["predict"].items():
        title = f"a prediction of {results['models'][name]['title']}"
        rows.append([title, number(_US * line["base"]), f"{_US * line['each']:.3g}", "step of the sequence"])
    titles = {"replica": "a step in Redis, at the replica", "redis": "the same, in Redis", "lmdb": "a step in LMDB"}
    for name, title in titles.items():
        line = fitted["stores"][name]
        each = f"{_US * 1024 * line['each']:.3g}"
        rows.append([title, number(_US * line["base"]), each, "KiB of state"])
    falls = any(line["each"] < 0 for line in fitted["stores"].values())
    doubt = (
        "\n\nA negative cost for each KiB has no meaning: the differences between the stores are smaller than the "
        "scatter of the figures above."
    )
    return (
        "The lines through these costs (least squares). Those of a store come on top of a step without one:\n\n"
        + table([head[0], head[3], head[1], head[2]], [[row[0], row[3], row[1], row[2]] for row in rows])
        + (doubt if falls else "")
    )


def _open_loops(results: dict[str, Any]) -> str:
    head = ["model", "steps/s", "p50, ms", "simulated", "p99, ms", "simulated"]
    rows = []
    for one in results["models"].values():
        found = one["open"]
        figures = [found["rate"], *(1e3 * found[key] for key in ("p50", "simulated_p50", "p99", "simulated_p99"))]
        rows.append([one["title"], *map(number, figures)])
    ratios = [one["open"]["p50"] / one["open"]["simulated_p50"] for one in results["models"].values()]
    return (
        "The simulation has queues: one at each replica, one at each primary of Redis. Arrivals are Poisson, and "
        "service times are exponential about the measured means. It has no batches, no network and no other work on "
        f"the machine. Beside it a real server, whose core is to be {SHARE:.0%} in use by the costs above:\n\n"
        f"{table(head, rows, words=1)}\n\n"
        f"A median step took {min(ratios):.1f} to {max(ratios):.1f} times as long as simulated: the load generator and "
        "Redis share a core, and steps wait for the batch before. So the projections below tell how many cores are "
        "needed. Their latencies are lower bounds."
    )


def _projection(results: dict[str, Any], name: str) -> str:
    found, title = results["projection"][name], results["models"][name]["title"]
    (needed,) = (one for one in found["simulated"] if one["share"] == SHARE)
    head = ["in use", "replicas", "primaries", "p50, ms", "p99, ms"]
    rows = [
        [
            f"{one['share']:.0%}",
            number(one["replicas"]),
            number(one["shards"]),
            number(1e3 * one["p50"]),
            number(1e3 * one["p99"]),
        ]
        for one in found["simulated"]
    ]
    return (
        f"**A projection, not a measurement:** {LIVE:,} live sessions of {title}, and {RATE:,} steps a second. With "
        f"each core {SHARE:.0%} in use that is {needed['replicas']:,} replicas of one core, {needed['shards']:,} "
        f"primaries of Redis with {found['memory'] / _GIB:,.1f} GiB together, {found['calls']:,.0f} calls and "
        f"{found['network'] / _MIB:,.0f} MiB of states a second between them. Simulated, by how much of each core is "
        f"in use:\n\n{table(head, rows, words=1)}"
    )
