"""Makes the tables of the terminal and of the page from the results. No number in them is typed by hand."""

import re
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.environments import PICTURES, ROOT, InstallFailure

Cell = dict[str, Any]
_NONE = ""

Aim = tuple[str, float | None, float, float] | None
"""The lowest or highest ratio that is aimed at, for the small, the mid and the big model."""


class Figures:
    """The results of one model: medians over the rounds."""

    def __init__(self, results: dict[str, Any], name: str) -> None:
        self.found = results["models"][name]
        self.contenders = self.found["contenders"]

    @property
    def kernel(self) -> float:
        """Useful steps a second."""
        return float(max(self.found["kernel"]))

    @property
    def num_connections(self) -> int:
        """Connections of the busiest closed loop."""
        return int(max(cell["connections"] for cell in self.found["cells"] if not cell["rate"]))

    def cell(self, contender: str, form: str, *, distribution: str = "lognormal", **at: float) -> Cell | None:
        """One cell: `connections=` for a closed loop, `share=` for an open one."""
        wanted = {"contender": contender, "form": form, "distribution": distribution, "share": 0.0, **at}
        found = (cell for cell in self.found["cells"] if all(cell[key] == value for key, value in wanted.items()))
        return next(found, None)

    def rounds(self, contender: str, form: str, **at: Any) -> list[Cell]:
        """The rounds of one cell."""
        cell = self.cell(contender, form, **at)
        return list(cell["rounds"]) if cell else []

    def overall(self, figure: Callable[[Cell], float], contender: str, form: str, **at: Any) -> float | None:
        """A latency over all rounds together; of anything else, the median of the rounds."""
        cell = self.cell(contender, form, **at)
        if cell is None:
            return None
        return figure(cell["all"]) if figure in (p50, p99) else statistics.median(map(figure, cell["rounds"]))

    def quickest_peer(self, figure: Callable[[Cell], float], form: str, **at: Any) -> str:
        """The peer with the least of a latency; nothing if there is none."""
        peers = [name for name, one in self.contenders.items() if one["role"] == "peer"]
        seen = [(value, name) for name in peers if (value := self.overall(figure, name, form, **at)) is not None]
        return min(seen)[1] if seen else ""


def per_second(cell: Cell) -> float:
    return float(cell["num_done"] / cell["seconds"])


def useful_steps(cell: Cell) -> float:
    return float(cell["num_steps"] / cell["seconds"])


def cpu_milliseconds(cell: Cell) -> float:
    return float(1e3 * cell["server_cpu"] / max(cell["num_done"], 1))


def p50(cell: Cell) -> float:
    return float(1e3 * cell["p50"])


def p99(cell: Cell) -> float:
    return float(1e3 * cell["p99"])


def _unanswered(cell: Cell) -> int:
    """Number of requests that were not answered with 200."""
    return int(cell["num_lost"]) + sum(count for status, count in cell["statuses"].items() if status != "200")


def tables(results: dict[str, Any]) -> str:
    """All results, as Markdown."""
    models = [Figures(results, name) for name in results["models"]]
    parts = [_machine(results), _contenders(models), _targets(models), _in_process(models), _lengths(models)]
    if results.get("promises"):
        parts.append(_promises(results["promises"]))
    if results.get("profile"):
        title = "Where the processor time of an Elman request goes, in microseconds:"
        parts.append(f"{title}\n\n{parts_table(results['profile'])}")
    parts.append(_notes(results))
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(results: dict[str, Any]) -> str:
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Measured {machine['date']} in {machine['minutes']:.0f} minutes on {machine['cpu']}: the server on one core, "
        f"the load generator on another; {settings['rounds']} rounds of {settings['seconds']:g} s or more. Rates are "
        f"medians of the rounds; latencies are those of all rounds together. "
        f"The load average before the run was {machine['load_before']:.1f}. Python {machine['python']}, {versions}."
    )


def table(head: list[str], rows: list[list[str]], words: int = 2) -> str:
    """A Markdown table. The first `words` columns are aligned left, the others right."""
    rule = ["---" if index < words else "---:" for index in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def number(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _contenders(models: list[Figures]) -> str:
    most = models[0].num_connections
    counts = sorted({cell["connections"] for cell in models[0].found["cells"] if cell["form"] == "json"})
    head = ["model", "server", *(f"JSON, {count} conn." for count in counts), f"octet, {most} conn."]
    head += ["p50 at 1, ms", f"p99 at {most}, ms", "open loop p50, ms", "open loop p99, ms"]
    head += [f"CPU ms a request at {most}", "useful steps/s", "memory, MB"]
    rows = []
    for one in models:
        for name, contender in one.contenders.items():
            rates = [one.overall(per_second, name, "json", connections=count) for count in counts]
            rows.append(
                [
                    one.found["title"],
                    f"**{contender['title']}**" if contender["role"] == "elman" else contender["title"],
                    *map(number, rates),
                    number(one.overall(per_second, name, "octet", connections=most)),
                    number(one.overall(p50, name, "json", connections=1)),
                    number(one.overall(p99, name, "json", connections=most)),
                    number(one.overall(p50, name, "json", share=0.6)),
                    number(one.overall(p99, name, "json", share=0.6)),
                    number(one.overall(cpu_milliseconds, name, "json", connections=most)),
                    _NONE
                    if contender["role"] == "floor"
                    else number(one.overall(useful_steps, name, "json", connections=most)),
                    number(one.found["memory"].get(name, 0) / 1e6),
                ]
            )
        kernel = [_NONE] * (len(head) - 2)
        kernel[-2] = number(one.kernel)
        rows.append([one.found["title"], f"the kernel alone ({one.found['kernel_batch']})", *kernel])
        decode = [_NONE] * (len(head) - 2)
        decode[-3] = number(1e3 * one.found["json_seconds"])
        rows.append([one.found["title"], "JSON alone: decode and encode", *decode])
    title = (
        f"Requests a second in a closed loop, lognormal lengths of mean {models[0].found['mean_length']:.0f} "
        "(1 to 200); the open loop has Poisson arrivals at 60 % of what the best peer reaches."
    )
    return f"{title}\n\n{table(head, rows)}"


def _targets(models: list[Figures]) -> str:
    """Ratios of Elman to its peers and to the ceilings."""
    busy = {"connections": models[0].num_connections}
    most = busy["connections"]
    lines: list[tuple[str, Aim, Callable[[Figures], str]]] = [
        (
            f"requests/s at {most}, JSON, over mosec's",
            ("at least", 1.8, 1.9, 1.8),
            lambda m: _ratio(m, per_second, "json", "mosec", **busy),
        ),
        (
            "the same, octet-stream",
            ("at least", 2.0, 2.2, 2.0),
            lambda m: _ratio(m, per_second, "octet", "mosec", **busy),
        ),
        (
            "the same, JSON, 8-bit weights",
            ("at least", None, 2.4, 4.0),
            lambda m: _ratio(m, per_second, "json", "mosec", ours="elman8", **busy),
        ),
        (
            f"p50 at {most}, JSON, over mosec's",
            ("at most", 0.7, 0.7, 0.7),
            lambda m: _ratio(m, p50, "json", "mosec", **busy),
        ),
        (
            f"p99 at {most}, JSON, over mosec's",
            ("at most", 1.0, 0.8, 0.8),
            lambda m: _ratio(m, p99, "json", "mosec", **busy),
        ),
        (
            "p50 at 1 connection over the naive server's",
            ("at most", 0.7, 0.7, 0.9),
            lambda m: _ratio(m, p50, "json", "naive", connections=1),
        ),
        (
            "p99 in the open loop over the best peer's",
            ("at most", 0.7, 0.7, 0.7),
            lambda m: _ratio(m, p99, "json", share=0.6),
        ),
        (
            "the same, octet-stream, over its best peer",
            None,
            lambda m: _ratio(m, p99, "octet", share=0.6),
        ),
        *(
            (
                f"requests/s at {most}, JSON, {name} lengths, over mosec's",
                ("at least", 1.2, 1.3, 1.3),
                lambda m, name=name: _ratio(m, per_second, "json", "mosec", distribution=name, **busy),
            )
            for name in ("fixed", "uniform")
        ),
        ("engine in process, useful steps/s over the kernel's", ("at least", 0.75, 0.9, 0.9), _engine_share),
        (
            "CPU a request over bare HTTP + JSON + kernel",
            ("at most", 1.4, 1.25, 1.15),
            lambda m: _over_ceilings(m, most),
        ),
    ]
    head = ["Elman, as a ratio", "aim: small, mid, big", *(one.found["title"] for one in models)]
    rows = [[title, _aim(aim), *(ratio(one) for one in models)] for title, aim, ratio in lines]
    return "\n\n".join(filter(None, (table(head, rows), _confidence(models[0]))))


def _aim(aim: Aim) -> str:
    return f"{aim[0]} " + ", ".join("none" if value is None else f"{value:g}" for value in aim[1:]) if aim else ""


def _confidence(one: Figures) -> str:
    """What the lowest and the highest ratio of the rounds mean."""
    count = len(one.found["kernel"])
    if count < 2:
        return ""
    return (
        f"In brackets are the lowest and the highest ratio of the {count} rounds. The true median lies between them "
        f"with {1 - 2 ** (1 - count):.0%} confidence (the sign test)."
    )


def _ratio(
    one: Figures, figure: Callable[[Cell], float], form: str, peer: str | None = None, ours: str = "elman", **at: Any
) -> str:
    """Elman over a peer, or over the one with the least latency, with the lowest and the highest ratio of a round."""
    best = peer or one.quickest_peer(figure, form, **at)
    mine, theirs = one.cell(ours, form, **at), one.cell(best, form, **at)
    if mine is None or theirs is None:
        return _NONE
    ratios = [figure(a) / max(figure(b), 1e-9) for a, b in zip(mine["rounds"], theirs["rounds"], strict=True)]
    middle = (
        figure(mine["all"]) / max(figure(theirs["all"]), 1e-9) if figure in (p50, p99) else statistics.median(ratios)
    )
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{middle:.2f}{spread}" + (f", {best}" if peer is None else "")


def _engine_share(one: Figures) -> str:
    shares = [a / b for a, b in zip(one.found["policies"]["continuous"], one.found["kernel"], strict=True)]
    return f"{statistics.median(shares):.2f}"


def _over_ceilings(one: Figures, most: int) -> str:
    ours = one.overall(cpu_milliseconds, "elman", "json", connections=most)
    bare = one.overall(cpu_milliseconds, "bare", "json", connections=most)
    if ours is None or bare is None:
        return _NONE
    json_ms, kernel_ms = 1e3 * one.found["json_seconds"], 1e3 * one.found["mean_length"] / one.kernel
    return f"{ours / (bare + json_ms + kernel_ms):.2f} = {ours:.3f} / ({bare:.3f} + {json_ms:.3f} + {kernel_ms:.3f})"


def _in_process(models: list[Figures]) -> str:
    names = {
        "continuous": "continuous batching (the engine)",
        "bucketed": "bucketed batches of 16",
        "padded": "padded batches of 16",
        "singly": "one by one",
    }
    head = ["same runner and kernel, in process", "", *(one.found["title"] for one in models)]
    rows = []
    for name, title in names.items():
        values = [statistics.median(one.found["policies"][name]) for one in models]
        shares = [f"{number(v)} ({v / one.kernel:.2f})" for v, one in zip(values, models, strict=True)]
        rows.append([title, "", *shares])
    title = "Useful steps a second with 64 sequences in flight, and their share of what the kernel reaches:"
    return f"{title}\n\n{table(head, rows)}"


def _lengths(models: list[Figures]) -> str:
    others = sorted({cell["distribution"] for one in models for cell in one.found["cells"]} - {"lognormal"})
    if not others:
        return ""
    most = models[0].num_connections
    rows = []
    for one in models:
        for name, contender in one.contenders.items():
            if contender["role"] == "floor":
                continue
            rates = [
                one.overall(per_second, name, "json", distribution=each, connections=most)
                for each in ("lognormal", *others)
            ]
            rows.append([one.found["title"], contender["title"], *map(number, rates)])
    return f"Requests a second at {most} connections, JSON, by how lengths fall (all of mean 23):\n\n" + table(
        ["model", "server", "lognormal", *others], rows
    )


def _promises(promises: dict[str, Any]) -> str:
    lines = []
    for name, found in promises["blocking"].items():
        alone, beside = ([one[key]["p99"] for one in found["rounds"]] for key in ("alone", "beside"))
        ratio = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
        limit = f"{1e3 * statistics.median(beside):.2f} ms while four clients keep sequences of 10,000 steps running"
        lines.append(
            f"- **No head-of-line blocking**, {name}: p99 of ten-step requests is {limit}, "
            f"{1e3 * statistics.median(alone):.2f} ms alone: {ratio:.1f} times."
        )
    for name, found in promises["length"].items():
        rates = ", ".join(f"{one['length']:,}: {one['steps_per_second']:,.0f}" for one in found)
        memory = f"{found[0]['memory'] / 1e6:.0f} MB to {found[-1]['memory'] / 1e6:.0f} MB"
        lines.append(f"- **Length**, {name}: useful steps a second by length, {rates}; memory {memory}.")
    for flood in promises["flood"]:
        statuses = ", ".join(f"{count:,} of {status}" for status, count in sorted(flood["statuses"].items()))
        queue = f"a queue of {flood['queue']:,}" if flood["queue"] else "the default queue"
        lines.append(
            f"- **{flood['requests']:,} requests at once**, {queue}: {statuses}, {flood['lost']} lost, "
            f"in {flood['seconds']:.1f} s."
        )
    words = promises["words"]
    final, steps = words["final"]["cpu"], words["steps"]["cpu"]
    lines.append(
        f"- **`final` pays for one decode**: {words['vocabulary']:,} words, {words['length']} steps: "
        f"{1e3 * final:.2f} ms of processor time a request for `final`, {1e3 * steps:.1f} ms for `steps`."
    )
    return "\n".join(lines)


def parts_table(found: dict[str, Any]) -> str:
    """The parts of a request, with the share of each."""
    columns = [one[form] for one in found.values() for form in ("json", "octet")]
    head = ["part", "", *(f"{one['title']}, {form}" for one in found.values() for form in ("json", "octet"))]
    rows = []
    for part in columns[0]:
        shares = [f"{column[part]:.1f} ({column[part] / sum(column.values()):.0%})" for column in columns]
        rows.append([part, "", *shares])
    rows.append(["**in all**", "", *(f"**{sum(column.values()):.0f}**" for column in columns)])
    return table(head, rows)


def functions(found: dict[str, Any]) -> str:
    """The functions with the most own time, by model."""
    lines = []
    for name, one in found.items():
        lines.append(f"{name}: own time in µs a request, under the profiler; the engine, then the application")
        lines += [f"  {cost:8.1f}  {calls:6.2f} calls  {where}" for where, cost, calls in one["functions"]]
    return "\n".join(lines)


def _notes(results: dict[str, Any]) -> str:
    lines = [] if results["settings"]["tune"] else ["- The peers were not tuned in this run."]
    for name, found in results["models"].items():
        tunings = {peer: tuning for peer, tuning in found["tunings"].items() if tuning}
        if tunings:
            chosen = "; ".join(
                f"{peer} " + ", ".join(f"{key} {value:g}" for key, value in tuning.items())
                for peer, tuning in tunings.items()
            )
            lines.append(f"- Settings of the peers for {name} (batch in sequences, wait in ms): {chosen}.")
        lines += [f"- {peer} is not in the table of {name}: {why}" for peer, why in found["failures"].items()]
    for name, found in results["models"].items():
        for cell in found["cells"]:
            wrong = sum(map(_unanswered, cell["rounds"]))
            if wrong:
                lines.append(f"- {cell['contender']}, {name}, {cell['form']}: {wrong} requests were refused or lost.")
    lines += [f"- {peer} could not be installed: {why}" for peer, why in results["failures"].items()]
    return "\n".join(lines)


_IMAGES = "![Latency against load](pictures/latency.png)\n\n![Throughput against the ceilings](pictures/throughput.png)"


def write_page(results: dict[str, Any], page: Path) -> None:
    """Write the tables between the marks of the page."""
    put(page, "results", f"{tables(results)}\n\n{_IMAGES}")


def put(page: Path, mark: str, content: str) -> None:
    """Write a part of the page between its marks, `<!-- mark -->` and `<!-- /mark -->`."""
    marks = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    text, num_found = marks.subn(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", page.read_text())
    if not num_found:
        raise ValueError(f"{page} has no marks <!-- {mark} --> and <!-- /{mark} -->")
    page.write_text(text)


def draw(results: Path, folder: Path) -> None:
    """Draw the pictures, in the environment that has matplotlib."""
    try:
        PICTURES.make()
    except InstallFailure as failure:
        print(f"No pictures: {failure}")
        return
    command = [str(PICTURES.python), "-m", "benchmarks.pictures", str(results.resolve()), str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
