"""The pictures of the README, from the results. Imports matplotlib and nothing else that is not Python's own."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_COLOURS = {
    "elman": "#c2410c",
    "elman8": "#fb923c",
    "mosec": "#1d4ed8",
    "naive": "#64748b",
    "litserve": "#15803d",
    "bentoml": "#7e22ce",
    "mlserver": "#0e7490",
    "pytriton": "#a16207",
    "ray": "#db2777",
}


def main(results_file: str, folder: str) -> None:
    results = json.loads(Path(results_file).read_text())
    Path(folder).mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"})
    _latency(results, Path(folder) / "latency.png")
    _throughput(results, Path(folder) / "throughput.png")


def _servers(found: dict[str, Any]) -> list[str]:
    return [name for name, one in found["contenders"].items() if one["role"] != "floor"]


def _latency(results: dict[str, Any], path: Path) -> None:
    """p99 and p50 in the open loop, against the rate offered."""
    models = results["models"]
    figure, panels = plt.subplots(1, len(models), figsize=(4.2 * len(models), 4.2), squeeze=False)
    for panel, found in zip(panels[0], models.values(), strict=True):
        for name in _servers(found):
            cells = [c for c in found["cells"] if c["contender"] == name and c["rate"] and c["form"] == "json"]
            cells.sort(key=lambda cell: cell["rate"])
            rates = [cell["rate"] for cell in cells]
            for key, style in (("p99", "o-"), ("p50", "o:")):
                label = found["contenders"][name]["title"] if key == "p99" else None
                values = [1e3 * cell["all"][key] for cell in cells]
                panel.plot(rates, values, style, color=_COLOURS[name], label=label, markersize=3)
        panel.set(title=found["title"], xlabel="requests/s offered", yscale="log", xlim=(0, None))
        panel.grid(axis="y", alpha=0.25)
    panels[0][0].set_ylabel("latency, ms: p99 solid, p50 dotted")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.06 + 0.06 * (len(labels) - 1 >> 2), 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _throughput(results: dict[str, Any], path: Path) -> None:
    """Requests a second in JSON and octet-stream, under the ceilings."""
    models = results["models"]
    figure, panels = plt.subplots(1, len(models), figsize=(4.2 * len(models), 3.8), squeeze=False)
    for panel, found in zip(panels[0], models.values(), strict=True):
        names = _servers(found)
        most = max(cell["connections"] for cell in found["cells"])
        for offset, form in ((-0.2, "json"), (0.2, "octet")):
            rates = [_rate(found, name, form, most) for name in names]
            places = [index + offset for index in range(len(names))]
            colours = [_COLOURS[name] for name in names]
            panel.bar(places, rates, 0.36, color=colours, alpha=1.0 if form == "json" else 0.5)
        _ceiling(panel, max(found["kernel"]) / found["mean_length"], "kernel", "right")
        _ceiling(panel, _rate(found, "bare", "json", most), "bare HTTP", "center")
        _ceiling(panel, 1 / found["json_seconds"], "JSON", "left")
        titles = [found["contenders"][name]["title"].replace(" + pydantic + ONNX Runtime", "") for name in names]
        panel.set_xticks(range(len(names)), titles, fontsize=8, rotation=35, ha="right", rotation_mode="anchor")
        panel.set(title=found["title"], yscale="log")
    panels[0][0].set_ylabel("requests/s at the most connections\nJSON solid, octet-stream pale")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _rate(found: dict[str, Any], name: str, form: str, connections: int) -> float:
    for cell in found["cells"]:
        at = (cell["contender"], cell["form"], cell["connections"], cell["rate"], cell["distribution"])
        if at == (name, form, connections, 0.0, "lognormal"):
            return float(statistics.median(one["num_done"] / one["seconds"] for one in cell["rounds"]))
    return float("nan")


def _ceiling(panel: Any, rate: float, name: str, side: str) -> None:
    """A line; ceilings near each other have their names on different sides."""
    if rate == rate:
        at = {"left": 0.0, "center": 0.5, "right": 1.0}[side]
        panel.axhline(rate, color="black", linewidth=0.8, linestyle="--")
        panel.annotate(name, (at, rate), xycoords=("axes fraction", "data"), ha=side, va="bottom", fontsize=8)


if __name__ == "__main__":
    main(*sys.argv[1:])
