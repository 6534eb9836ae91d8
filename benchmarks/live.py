"""Live sessions of a server: made, listed and stepped over HTTP."""

from dataclasses import replace

import orjson

from benchmarks.load import Plan, Report, request
from benchmarks.measure import generate
from benchmarks.models import Shape
from benchmarks.processes import Process, cores
from benchmarks.serving import fetch_json
from benchmarks.session_load import WalkPlan
from benchmarks.workload import CONTENT_TYPES, Format, Workload

# Time limit of work on a given number of sessions, in seconds.
LONG = 240.0


def texts(workload: Workload, form: Format) -> list[bytes]:
    """Sequences encoded for a walk."""
    if form == "octet":
        return workload.bodies("octet")
    return [orjson.dumps(sequence, option=orjson.OPT_SERIALIZE_NUMPY) for sequence in workload.sequences]


def create(process: Process, shape: Shape, count: int) -> Report:
    """Create sessions over HTTP. Raises RuntimeError if any is refused."""
    asked = request(f"/v1/models/{shape.name}/sessions", b"{}", CONTENT_TYPES["json"])
    plan = Plan(process.port, [asked], [1], connections=min(16, count), pids=process.pids(), core=cores()[1])
    report = generate(replace(plan, limit=count, seconds=LONG))
    if report.statuses != {"201": count}:
        raise RuntimeError(f"creating sessions was answered with {report.statuses}, expected 201 only")
    return report


def standing(port: int) -> list[tuple[str, int]]:
    """(path of its steps, step) of every session, oldest first."""
    found: list[tuple[str, int]] = []
    after = ""
    while True:
        page = fetch_json(port, "GET", f"/v1/sessions?limit=1000{after}")
        found += [(f"/v1/sessions/{one['id']}/steps", one["step"]) for one in page["sessions"]]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


def walk(plan: WalkPlan, sessions: list[tuple[str, int]]) -> WalkPlan:
    """The plan with these sessions."""
    return replace(plan, paths=[path for path, _ in sessions], starts=[step for _, step in sessions])
