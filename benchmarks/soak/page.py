"""The page of a soak."""

from collections import Counter
from typing import Any

from benchmarks.report import number, table


def page(results: dict[str, Any]) -> str:
    """What was done and what was found, as Markdown."""
    return "\n\n".join([_about(results), _visits_table(results), _footprint_table(results), _lines(results)])


def _about(results: dict[str, Any]) -> str:
    found, load = results["machine"], results["load"]
    checked = sum((Counter(results[server]["right"]) for server in ("steady", "killed")), Counter())
    checked.pop("aborted")
    num_wrong = sum(len(results[server]["wrong"]) for server in ("steady", "killed"))
    return (
        f"Measured {found['date']} in {found['minutes']:.1f} minutes on {found['cpu']} with {found['cores']} cores, by "
        f"`{results['command']}`. The load average was {load['lowest']:.1f} to {load['highest']:.1f} meanwhile, "
        f"{load['median']:.1f} in the median: other work ran beside it.\n\n"
        f"**{checked.total():,} checks of answers, {num_wrong} that failed.** Lost are requests without an "
        "answer, as the server that is killed must leave some. At the steady server a request counts as lost only if "
        "the visitor was so late with it that the idle connection may have been closed. Any other without an answer is "
        f"a failure. The visitors stood still for {results['lag']:.1f} seconds at most."
    )


def _visits_table(results: dict[str, Any]) -> str:
    steady, killed = results["steady"], results["killed"]
    kinds = [*steady["right"], *(kind for kind in killed["right"] if kind not in steady["right"])]
    counts = (steady["right"], steady["lost"], killed["right"], killed["lost"])
    rows = [[kind, *(f"{count.get(kind, 0):,}" for count in counts)] for kind in sorted(kinds)]
    return table(["", "steady server: right", "lost", "killed server: right", "lost"], rows, words=1)


def _footprint_table(results: dict[str, Any]) -> str:
    before, after = results["before"], results["after"]
    names = {
        "memory": "allocated memory, MB",
        "resident": "resident memory, MB",
        "descriptors": "descriptors",
        "threads": "threads",
        "elman_tasks": "tasks",
        "elman_sessions": "sessions",
        "elman_streams": "streams",
    }
    unit = {"memory": 1e6, "resident": 1e6}
    rows = [
        [title, *(number(one[name] / unit.get(name, 1)) for one in (before, after))] for name, title in names.items()
    ]
    title = f"The steady server, when nobody visits it; its models were replaced {results['reloads']:,} times between:"
    return f"{title}\n\n{table(['', 'after the warm-up', 'at the end'], rows, words=1)}"


def _lines(results: dict[str, Any]) -> str:
    troubles = ", ".join(f"{name} {count} times" for name, count in results["troubles"].items())
    lives = [life for life in results["supervisors"] if len(life) > 1]
    lines = [f"- The other server had: {troubles}."]
    if lives:
        found = "; ".join(f"{first} and {last}" for first, last in lives)
        lines.append(f"- Descriptors of its supervisor, at the beginning and the end of each life: {found}.")
    for name, one in results["liveness"].items():
        times = ", ".join(f"{title} {1e3 * one[key]:.1f} ms" for key, title in (("p50", "p50"), ("p99", "p99")))
        lines.append(f"- `/livez` of the {name} server, asked {one['asked']:,} times: {times}.")
    lines += [f"- Not as it must be: {one}." for one in results["faults"]]
    return "\n".join(lines)
