"""Triton's load test against a server: `python -m benchmarks.perf_analyzer COMMAND`. It writes its reports to results/.

COMMAND starts the program perf_analyzer, also in the root of another system: `chroot /srv/trixie /opt/perf_analyzer`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.environments import BENCH, ROOT
from benchmarks.measure import machine, say
from benchmarks.processes import free_port
from benchmarks.serving import serving

REPORT = Path(__file__).parent / "results" / "perf_analyzer.txt"
MODEL, SEQUENCES = "vowels-gru", "vowels-sequences"
# It takes a model for one of sequences if its configuration says so. With rows it adds their axis to each shape.
_CONFIG = "max_batch_size: 8\nsequence_batching { }\n"

_WHOLE = ["-m", MODEL, "--shape", "input:24,12", "-b", "8"]
_STEPS = ["-m", SEQUENCES, "--shape", "input:1,12", "--sequence-length", "20"]
RUNS = {
    "whole sequences over HTTP": ("http", _WHOLE),
    "whole sequences over gRPC": ("grpc", [*_WHOLE, "-i", "grpc"]),
    "steps of sequences over HTTP": ("http", _STEPS),
    "steps of sequences over a gRPC stream": ("grpc", [*_STEPS, "-i", "grpc", "--streaming"]),
}
# Three windows of two seconds, however much they differ.
_MEASURED = ["--concurrency-range", "4", "-p", "2000", "--max-trials", "4", "--stability-percentage", "999", "-v"]


def main(command: list[str]) -> None:
    """Raises CalledProcessError if a run fails."""
    reports = [f"{command[-1].rpartition('/')[2]} on {json.dumps(machine())}"]
    with tempfile.TemporaryDirectory(prefix="perf-analyzer-") as folder:
        root = Path(folder) / "models"
        for name in (MODEL, SEQUENCES):
            (root / name).mkdir(parents=True)
            (root / name / "1").symlink_to(ROOT / "models" / "store" / MODEL / "1", target_is_directory=True)
        (root / SEQUENCES / "config.pbtxt").write_text(_CONFIG)
        log, rpc_port = BENCH / "logs" / "perf_analyzer.log", free_port()
        with serving(root, Path(folder), log, store="memory", grpc_port=rpc_port) as process:
            ports = {"http": process.port, "grpc": rpc_port}
            for title, (protocol, options) in RUNS.items():
                address = ["-u", f"127.0.0.1:{ports[protocol]}"]
                ran = subprocess.run([*command, *address, *options, *_MEASURED], capture_output=True, text=True)
                say(ran.stdout + ran.stderr)
                ran.check_returncode()
                reports.append(f"# {title}: perf_analyzer {' '.join([*options, *_MEASURED])}\n{ran.stdout}")
    REPORT.write_text("\n\n".join(reports))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
