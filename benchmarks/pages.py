"""The pages of sessions, autoregressive requests and int8: tables of what was measured, no number typed by hand."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.autoregressive import STEPS, steps_of
from benchmarks.client import AS_BYTES, AS_JSON
from benchmarks.protocols import MODEL, OCTETS
from benchmarks.quantised import BATCHES, CONNECTIONS, FORMS
from benchmarks.report import number, table
from benchmarks.session_footprint import AT_ONCE, GROUP
from benchmarks.sessions import Name, rate

TITLES: dict[Name, str] = {
    "lmdb": "sessions, LMDB",
    "cold": "sessions, LMDB, none at hand",
    "redis": "sessions, Redis",
    "memory": "sessions, memory",
    "tokens": "state tokens, no store",
    "predict": "predict, no state (the ceiling)",
}
AIM = "1.5 times the raw size and 200 bytes"


def aim(raw: int) -> float:
    """Most bytes that a session should take, whose current and previous state have `raw` bytes together."""
    return 1.5 * raw + 200


def sessions(results: dict[str, Any]) -> str:
    """Everything that was measured, as Markdown."""
    return "\n\n".join(
        [
            about(results),
            _steps_table(results),
            _held_table(results["held"]),
            _disk_table(results["disk"]),
            _many_lines(results),
        ]
    )


def about(results: dict[str, Any]) -> str:
    """What was measured on what, and when."""
    found, settings = results["machine"], results["settings"]
    of_each = f" of {settings['seconds']:g} s" if settings["seconds"] else ""
    return (
        f"Measured {found['date']} in {found['minutes']:.1f} minutes on {found['cpu']}, by `{results['command']}`: "
        "the server on one core, the load on another; medians of "
        f"{settings['rounds']} rounds{of_each}. "
        f"The load average before the run was {found['load_before']:.1f}."
    )


def _steps_table(results: dict[str, Any]) -> str:
    settings = results["settings"]
    head = ["live sessions", "", "format", "steps/s", "p50, ms", "p99, ms", "CPU µs a request", "refused or lost"]
    rows = []
    for cell in results["cells"]:
        rounds = cell["rounds"]
        refused = sum(one["num_lost"] + sum(one["statuses"].values()) - one["statuses"].get("200", 0) for one in rounds)
        figures = [
            _median(rounds, rate),
            1e3 * _median(rounds, lambda one: float(one["p50"])),
            1e3 * _median(rounds, lambda one: float(one["p99"])),
            1e6 * _median(rounds, lambda one: float(one["server_cpu"] / max(one["num_done"], 1))),
        ]
        form = "JSON" if cell["form"] == "json" else "octet"
        rows.append([f"{cell['live']:,}", TITLES[cell["way"]], form, *map(number, figures), str(refused)])
    title = (
        f"{results['model']}, one step a request, each with the step that it is believed to be at (`at`), in a closed "
        f"loop of {settings['connections']} connections (one, where one is live). Tokens come and go with each request:"
    )
    return f"{title}\n\n{table(head, rows, words=3)}"


def _median(rounds: list[dict[str, Any]], figure: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(map(figure, rounds))


def _held_table(held: list[dict[str, Any]]) -> str:
    head = [
        "model",
        "store",
        "raw bytes",
        "aim",
        "file",
        "of the aim",
        "memory",
        "of the aim",
        "CPU µs to make one",
    ]
    rows = []
    for one in held:
        raw, most = one["raw"], aim(one["raw"])
        for name, title in (("lmdb", "LMDB"), ("memory", "memory")):
            found = one[name]
            file = [number(found["disk"]), f"{found['disk'] / most:.2f}"] if name == "lmdb" else ["", ""]
            memory = [number(found["memory"]), f"{found['memory'] / most:.2f}"]
            cost = number(1e6 * found["create_cpu"])
            rows.append([one["title"], title, number(raw), number(most), *file, *memory, cost])
    title = (
        f"Bytes a session of a running server, of {held[0]['sessions']:,} that were stepped twice. Raw is the state, "
        f"current and previous; the aim is {AIM}. What LMDB's sessions take of memory is the copies at hand of those "
        "stepped last, which `ELMAN_HOT_SESSION_BYTES` bounds for all together:"
    )
    return f"{title}\n\n{table(head, rows)}"


def _disk_table(disk: list[dict[str, Any]]) -> str:
    head = ["bytes of a state", "raw", "aim", "file, new", "file, stepped", "of the aim"]
    head += ["µs to make one", "to step one", f"to step one of {GROUP} together", "to read one"]
    rows = []
    for one in disk:
        raw = one["raw"]
        sizes = [number(raw), number(aim(raw)), number(one["created"]), number(one["stepped"])]
        calls = [number(1e6 * one[name]) for name in ("create", "advance", "advance_together", "read")]
        rows.append([f"{one['size']:,}", *sizes, f"{one['stepped'] / aim(raw):.2f}", *calls])
    return f"The store in a file by itself, by the size of a state:\n\n{table(head, rows, words=0)}"


def _many_lines(results: dict[str, Any]) -> str:
    found = results["many"]
    count = found["sessions"]
    ready = statistics.median(one["ready"] for one in found["start"])
    step = statistics.median(one["step"] for one in found["start"])
    empty = found["start_empty"]["ready"]
    made, stepped = (count / found[name] for name in ("create_seconds", "step_seconds"))
    once, again = found["steps"]
    sample = sum(once["statuses"].values()) + once["num_lost"]
    refused = sample - once["statuses"].get("200", 0)
    lines = [
        f"{count:,} live sessions of {results['model']}:",
        "",
        f"- Made at {made:,.0f} and stepped at {stepped:,.0f} a second without HTTP, {AT_ONCE} at once; "
        f"{found['disk'] / count:,.0f} bytes of file each.",
        f"- A server that starts on them is ready after {ready:.2f} s (with none after {empty:.2f} s), and answers the "
        f"first step {1e3 * step:.1f} ms after it is asked.",
        f"- Over HTTP, {AT_ONCE} connections, octet-stream, {sample:,} of them drawn: each stepped once, which reads "
        f"it from the file, at {rate(once):,.0f} a second ({refused} refused or lost); then, at hand, at "
        f"{rate(again):,.0f} a second, p99 {1e3 * again['p99']:.1f} ms. Each that is at hand takes "
        f"{found['memory']:,.0f} bytes of memory.",
    ]
    return "\n".join(lines)


def autoregressive(results: dict[str, Any]) -> str:
    """Everything that was measured of autoregressive requests, as Markdown."""
    return "\n\n".join([about(results), _streams_table(results), *_influence_tables(results["influence"])])


def _streams_table(results: dict[str, Any]) -> str:
    settings, rounds = results["settings"], results["streams"]
    head = ["", "", "alone", "beside the other"]

    def seen(kind: str, figure: Callable[[dict[str, Any]], float]) -> list[str]:
        alone = [figure(one[f"{kind} alone"]["reports"][kind]) for one in rounds]
        beside = [figure(one["beside"]["reports"][kind]) for one in rounds]
        return [_spread(alone), _spread(beside)]

    def milliseconds(name: str) -> Callable[[dict[str, Any]], float]:
        return lambda report: float(1e3 * report[name])

    def lost(report: dict[str, Any]) -> float:
        return float(report["num_lost"] + sum(report["statuses"].values()) - report["statuses"].get("200", 0))

    def iteration(name: str, figure: Callable[[dict[str, Any]], float]) -> str:
        return _spread([figure(one[name]) for one in rounds])

    def stall(one: dict[str, Any], gap: str) -> float:
        return float(one["reports"]["streams"][gap] / one["iteration"])

    cases = ("streams alone", "beside")
    streaming, predicting = f"{settings['streams']} streams", f"{settings['predicting']} predicting"
    rows = [
        [streaming, "tokens/s", *seen("streams", lambda one: float(one["num_tokens"] / one["seconds"]))],
        ["", "time to first token, p50, ms", *seen("streams", milliseconds("first_p50"))],
        ["", "time to first token, p99, ms", *seen("streams", milliseconds("first_p99"))],
        ["", "gap between tokens, p50, ms", *seen("streams", milliseconds("gap_p50"))],
        ["", "gap between tokens, p99, ms", *seen("streams", milliseconds("gap_p99"))],
        ["", "gap between tokens, longest, ms", *seen("streams", milliseconds("gap_most"))],
        ["", "from one run of the generator to the next, ms", *(
            iteration(case, lambda one: float(1e3 * one["iteration"])) for case in cases
        )],
        ["", "streams that a run advances", *(iteration(case, lambda one: float(one["rows"])) for case in cases)],
        ["", "gap p99, in runs", *(iteration(case, lambda one: stall(one, "gap_p99")) for case in cases)],
        ["", "longest gap, in runs", *(iteration(case, lambda one: stall(one, "gap_most")) for case in cases)],
        ["", "refused or lost", *seen("streams", lost)],
        [predicting, "requests/s", *seen("predict", rate)],
        ["", "p50, ms", *seen("predict", milliseconds("p50"))],
        ["", "p99, ms", *seen("predict", milliseconds("p99"))],
        ["", "refused or lost", *seen("predict", lost)],
    ]  # fmt: skip
    title = (
        f"{settings['streams']} clients follow streams of `names-lstm-generator`, each of {STEPS[0]} to {STEPS[1]} "
        f"letters, one after another, while {settings['predicting']} ask `names-lstm` for the language of surnames as "
        "fast as they are answered (both closed loops, so each alone fills the server):"
    )
    return f"{title}\n\n{table(head, rows)}"


def _spread(values: list[float]) -> str:
    """The median of the rounds, with the least and the most."""
    middle = number(statistics.median(values))
    return f"{middle} ({number(min(values))} to {number(max(values))})" if min(values) < max(values) else middle


def _influence_tables(influence: dict[str, Any]) -> list[str]:
    head = [
        "model",
        "steps",
        "influence, ms",
        "brute force, ms",
        "brute over influence",
        "influence, CPU ms",
        "brute force, CPU ms",
    ]
    head += ["brute over influence", "of the steps run", "furthest apart"]
    rows = []
    for name, found in influence.items():
        for one in found:
            few, all_steps = steps_of(one["length"])
            wall = [[1e3 * turn[verb]["p50"] for turn in one["rounds"]] for verb in ("influence", "predict")]
            cpu = [
                [1e3 * turn[verb]["server_cpu"] / max(turn[verb]["num_done"], 1) for turn in one["rounds"]]
                for verb in ("influence", "predict")
            ]
            figures: list[str] = []
            for route, force in (wall, cpu):
                ratios = [b / a for a, b in zip(route, force, strict=True)]
                figures += [number(statistics.median(route)), number(statistics.median(force)), _spread(ratios)]
            rows.append(
                [f"`{name}`", str(one["length"]), *figures, f"{all_steps / few:.2f}", f"{one['difference']:.1g}"]
            )
    title = (
        "Influence of each step over the wire against brute force, which is one predict request of the sequence and of "
        "the same with each step left out; one client, the server otherwise idle. Furthest apart is how far the two "
        "answers differ in any step's influence (a difference of probabilities):"
    )
    return [f"{title}\n\n{table(head, rows, words=1)}"]


def paths(results: dict[str, Any]) -> str:
    """Sampled forecasts against a plain loop, as Markdown."""
    settings, rows = results["settings"], []
    for name, rounds in results["paths"].items():
        for key, what in (("seconds", "time"), ("cpu", "processor time")):
            served, loop = ([one[way][key] for one in rounds] for way in ("forecast", "loop"))
            ratios = [a / b for a, b in zip(served, loop, strict=True)]
            rows.append([f"`{name}`", f"{what}, s", _spread(served), _spread(loop), _spread(ratios)])
    head = ["model", "", "forecast request", "plain loop", "request over loop"]
    title = (
        f"{settings['samples']:,} sampled paths of {settings['horizon']} steps, by one request and by a loop of one "
        "batch in ONNX Runtime on the same core, in turns:"
    )
    return f"{about(results)}\n\n{title}\n\n{table(head, rows)}"


def clients(results: dict[str, Any]) -> str:
    """The awaitable client beside aiohttp, as Markdown."""
    settings, cells = results["settings"], results["clients"]
    rows = []
    for name, rounds in cells.items():
        figures = [_spread([1e6 * one[key] for one in rounds]) for key in ("seconds", "cpu")]
        ratios = [
            _spread([one["seconds"] / other["seconds"] for one, other in zip(rounds, cells[base], strict=True)])
            for base in (AS_JSON, AS_BYTES)
        ]
        rows.append([name, *figures, *ratios])
    head = ["client", "µs a call", "CPU µs a call", f"time over {AS_JSON}", f"time over {AS_BYTES}"]
    title = (
        f"{settings['calls']} predictions of {settings['steps']} steps of {results['model']}, awaited at once, again "
        "and again; the clients run in turns in one process:"
    )
    return f"{about(results)}\n\n{title}\n\n{table(head, rows)}"


def fairness(results: dict[str, Any]) -> str:
    """A light caller beside heavy ones, as Markdown."""
    rows = []
    for name, rounds in results["fairness"].items():
        idle, loaded = ([1e3 * one[state]["p99"] for one in rounds] for state in ("idle", "loaded"))
        most = [2 * one + 10 for one in idle]
        kept = sum(one <= limit for one, limit in zip(loaded, most, strict=True))
        livez = [1e3 * one["loaded"]["livez_p99"] for one in rounds]
        failed = sum(one["loaded"]["failed"] for one in rounds)
        control = [1e3 * one["control"]["p99"] for one in rounds if one["control"]]
        rows.append(
            [
                name,
                _spread(idle),
                _spread(loaded),
                f"{kept} of {len(rounds)}",
                _spread(livez),
                _spread(control) if control else "",
                str(failed),
            ]
        )
    head = [
        "heavy caller",
        "p99 idle, ms",
        "p99 beside it, ms",
        "at most 2x + 10 ms",
        "`/livez` p99, ms",
        "control p99, ms",
        "failed",
    ]
    title = "A caller that sends ten steps every 20 ms, alone and beside a heavy one, in turns:"
    return f"{about(results)}\n\n{title}\n\n{table(head, rows)}"


def protocols(results: dict[str, Any]) -> str:
    """The cost of a request in each form, as Markdown."""
    head, rows = ["sequence", "form", "CPU µs a request", "over octets", "requests/s"], []
    for length, cells in results["lengths"].items():
        for form, rounds in cells.items():
            spent, base = ([one["cpu_us"] for one in cells[name]] for name in (form, OCTETS))
            ratios = [a / b for a, b in zip(spent, base, strict=True)]
            rate_of = statistics.median(one["rate"] for one in rounds)
            rows.append([f"{length} x {MODEL.features}", form, _spread(spent), _spread(ratios), number(rate_of)])
    title = (
        f"One sequence a request, and its last output, in each form on one server of an {MODEL.title}, at "
        f"{results['settings']['connections']} connections, in turns:"
    )
    return f"{about(results)}\n\n{title}\n\n{table(head, rows)}"


def int8(results: dict[str, Any]) -> str:
    """The page `models/int8.md`."""
    models = results["models"]
    return "\n\n".join([_INT8 + about(results), _accuracy_table(models), _speed_table(models), _labels(models)]) + "\n"


_INT8 = """# 8-bit weights

`elman export --quantise`, or `elman.export(..., quantise=True)`, rounds the weights of LSTM, GRU and plain RNN layers
to 8 bits, and what is multiplied by them as it comes. The file is about a quarter as large, and its answers are near to
those of the network.

Its bits depend on nothing but the sequence, so that it is batched, cut and carried on like a float32 model, and its
card says `exact`. The products are sums of integers, which no order rounds. The input is rounded on the scale of its
own row and step, h on one that is fixed in the file, and everything else is float32. Each layer is a Scan of standard
operators. Weights use half of the range of 8 bits: with all of it, sums overflow on processors without VNNI.

It is faster from a hidden size of about 256 on. A Scan runs each operator of a step by itself, which takes longer than
the products of a small layer.

`--quantise-dynamic`, or `quantise="dynamic"`, is ONNX Runtime's own form, of LSTM layers and matrix products. It is
faster where one sequence runs at a time. Its scale is taken over everything that is run at once, so that a neighbour
would change an answer: the server runs every sequence by itself, and the card does not say `exact`.

This page is written by `python -m benchmarks int8`, which rounds shipped models and those of the benchmark for itself.
[The shipped models](README.md) have the accuracy of each in 8 bits. None of them is shipped so.

"""


def _accuracy_table(models: dict[str, Any]) -> str:
    rounded = [form for form in FORMS if form != "float32"]
    head = ["model", "held out", *(f"right, {form}" for form in FORMS), *(f"changed, {form}" for form in rounded)]
    head += [f"KiB, {form}" for form in FORMS]
    rows = []
    for name, one in models.items():
        sizes = [f"{size / 1024:,.0f}" for size in one["sizes"]]
        if "wrong" not in one:
            rows.append([f"`{name}`", *[""] * (len(head) - len(sizes) - 1), *sizes])
            continue
        count = one["held_out"]
        right = [f"{100 * (count - wrong) / count:.2f} %" for wrong in one["wrong"]]
        rows.append([f"`{name}`", f"{count:,}", *right, *map(str, one["changed"][1:]), *sizes])
    title = (
        "Accuracy of the answer at the last step on the held-out data of each model, by ONNX Runtime on the file, how "
        "many answers differ from those of float32, and the size of the file. The last models have random weights, for "
        "the speed:"
    )
    return f"{title}\n\n{table(head, rows, words=1)}"


def _speed_table(models: dict[str, Any]) -> str:
    head = ["model", *(f"ONNX Runtime, batch {batch}" for batch in BATCHES)]
    head += [f"served, {count} connection{'s' * (count > 1)}" for count in CONNECTIONS]
    rows = []
    for name, one in models.items():
        rates = [one["kernel"][str(batch)] for batch in BATCHES] + [one["served"][str(count)] for count in CONNECTIONS]
        rows.append([f"`{name}`", *(f"{number(a)}: {b / a:.2f}, {c / a:.2f}" for a, b, c in rates)])
    title = (
        "Useful steps of float32 per second of processor time, and how many times as many of int8 and of dynamic: in "
        "ONNX Runtime alone, one thread, rows of 32 steps; and of a server that is asked for sequences of 23 steps as "
        "octets, in a closed loop. It runs dynamic one sequence at a time:"
    )
    return f"{title}\n\n{table(head, rows, words=1)}"


def _labels(models: dict[str, Any]) -> str:
    head = ["model", *(f"streaming, {form}" for form in FORMS), *(f"exact, {form}" for form in FORMS)]
    head += ["why not all, int8", "dynamic"]
    rows = []
    for name, one in models.items():
        streaming = [_yes(found) for found in one["streaming"]]
        exact = [_yes(found["exact"]) for found in one["batching"]]
        rows.append([f"`{name}`", *streaming, *exact, *(found["reason"] or "" for found in one["batching"][1:])])
    title = "What the server found of each file and says on its card:"
    return f"{title}\n\n{table(head, rows, words=len(head))}"


def _yes(found: bool) -> str:
    return "yes" if found else "no"
