"""Under load, the choice of batches keeps the slowest requests fast at little cost."""

from random import Random

from elman.engine.scheduler import Policy, Scheduler
from elman.engine.sequence import Sequence
from elman.repository.calibration import Calibration
from tests.properties.test_scheduling import sequence


class Nearest(Scheduler):
    """Chooses by length alone."""

    def _choose(self, now: float, room: int, blocks: bool) -> list[Sequence]:
        candidates = self._pop(now, 3 * room, blocks)
        first = candidates[0].remaining
        return sorted(candidates, key=lambda one: abs(one.remaining - first))[:room]


def busy(scheduler: Scheduler, lengths: list[int]) -> tuple[float, float]:
    """Sequences a second, and the 99th percentile of seconds, where 64 are always there, by the calibrated cost."""
    now, took, next_length = 0.0, [], iter(lengths)
    while True:
        while len(scheduler) < 64:
            length = next(next_length, 0)
            if not length:
                return len(took) / now, sorted(took)[-len(took) // 100]
            scheduler.add(sequence(length, queued_at=now))
        batch = scheduler.schedule(now)
        assert batch is not None
        now += scheduler.policy.cost.run_seconds(len(batch.sequences), batch.chunk)
        took += [now - one.queued_at for one in scheduler.update(batch)]


def test_the_slowest_of_many_are_faster_than_by_length_alone_and_hardly_fewer_a_second() -> None:
    # What a model of 256 units costs, and lengths of which a few are long.
    cost = Calibration(run=90e-6, row=2e-6, step=28e-6, row_step=6e-6, batch=12)
    drawn = Random(1)
    lengths = [min(200, max(1, round(drawn.lognormvariate(2.8, 0.8)))) for _ in range(4000)]
    rate, slow = busy(Scheduler(Policy(max_batch=12, cost=cost)), lengths)
    nearest_rate, nearest_slow = busy(Nearest(Policy(max_batch=12, cost=cost)), lengths)
    assert rate >= 0.95 * nearest_rate
    assert slow <= 0.8 * nearest_slow
