"""How many cores and how much memory this process was given: by its affinity, and by the limits of its container."""

import os
from collections.abc import Iterator
from pathlib import Path

# A limit of memory is shared out among workers in parts of this size: what docker-compose.yml gives one server with
# all shipped models.
WORKER_BYTES = 512 * 2**20

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """The cores on which this process may run."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        return os.cpu_count() or 1


def given_cores(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int | None:
    """The whole cores that the limit of processor time of a container comes to, at least 1; None without such a limit.

    Args:
        root: where the control groups are mounted.
        own: the file that names those of this process.
    """
    quotas = [quota for folder in _folders(root, own, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, min(usable_cores(), int(min(quotas)))) if quotas else None


def given_memory(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int | None:
    """The limit of memory of the container, in bytes; None without one."""
    names = ("memory.max", "memory.limit_in_bytes")
    limits = [_number(folder / name) for folder in _folders(root, own, "memory") for name in names]
    # Version 1 writes a number of nearly 2**63 where there is no limit.
    found = [limit for limit in limits if limit is not None and limit < 2**60]
    return min(found) if found else None


def workers_for(cores: int) -> int:
    """How many workers may run on so many cores, with the memory that there is."""
    memory = given_memory()
    return max(1, cores if memory is None else min(cores, memory // WORKER_BYTES))


def _folders(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """The control groups of this process for a controller, from its own up to the root. Limits hold at every level.

    In a container the path that the kernel names may be that of the host, and the root is the container's own group.
    """
    try:
        lines = own.read_text("ascii").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controllers if controllers else root  # version 2 has one tree for all
        here = top / path.strip("/")
        yield from (one for one in (here, *here.parents) if one == top or top in one.parents)


def _quota(folder: Path) -> float | None:
    """The cores that a control group may use, as a fraction; None without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    quota_v1, period_v1 = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota_v1 / period_v1 if quota_v1 is not None and period_v1 and quota_v1 > 0 else None


def _number(path: Path) -> int | None:
    """The number in a file; None if there is none."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
