"""Local search around the best candidate: proposals by a surrogate, decisions by measurement.

Each round draws local moves of the best schedules, and measures those with the largest expected
improvement (Jones et al. 1998) on a block of the noise samples, the same for all of the round. A
schedule that looks worse there is not measured again (early rejection); one that looks better is
measured on the other blocks too. Blocks take turns, so that no schedule is fitted to a few samples.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np

from dqar.step_schedule import StepSchedule
from pipeline.methods.search.measured_errors import MeasuredErrors
from pipeline.methods.search.moves import random_move
from pipeline.methods.search.objective import paired_difference
from pipeline.methods.search.surrogate import Prediction, Surrogate

BLOCK = 8
"""Noise samples that a round measures its schedules on."""
TRIED = 6
"""New schedules of a round."""
DRAWN = 200
"""Local moves that the schedules of a round are chosen from."""
PARENTS = 3
"""Best schedules that the moves start from."""
MOST_MOVES = 3
"""Most moves from a parent to a proposal."""


class LocalSearch:
    """Search around one schedule on the noise samples that it has been measured on.

    Args:
        start: schedule to start from; all of the noise samples have measured it.
        measured: errors of schedules, which the search adds to.
        samples: noise samples, a multiple of :data:`BLOCK`.
        predicted: prediction of the log error, up to a constant.
        draws: source of the random choices.
    """

    def __init__(
        self,
        start: StepSchedule,
        measured: MeasuredErrors,
        samples: int,
        predicted: Prediction,
        draws: random.Random,
    ) -> None:
        self._start, self._measured, self._draws = start, measured, draws
        self._blocks = [range(at, at + BLOCK) for at in range(0, samples, BLOCK)]
        self._seen: dict[StepSchedule, list[int]] = {start: list(range(samples))}
        self._surrogate = Surrogate(start, measured.steps, predicted)

    def know(self, schedules: Iterable[StepSchedule], noise_ids: range) -> None:
        """Tell the surrogate of schedules that were measured before."""
        for schedule in schedules:
            if schedule != self._start:
                self._measure([schedule], noise_ids)

    def run(self, trajectories: int) -> StepSchedule:
        """Search with at most so many trajectories and return the best schedule.

        The search also ends where all moves are known and measured on all noise samples, as with
        few steps.
        """
        before = self._measured.spent
        rounds = 0
        while trajectories - (self._measured.spent - before) // self._measured.steps >= BLOCK * (
            TRIED + 1
        ):
            block = self._blocks[rounds % len(self._blocks)]
            proposals = self._proposals()
            self._measure(proposals, block)
            if not self._confirm() and not proposals:
                break
            rounds += 1
        return self.best()

    def best(self) -> StepSchedule:
        """Return the schedule of least expected log error among those measured on most samples."""
        sure = [one for one, ids in self._seen.items() if len(ids) >= 2 * BLOCK]
        return sure[int(self._surrogate.believe(sure).mean.argmin())]

    def _proposals(self) -> list[StepSchedule]:
        known = list(self._seen)
        order = self._surrogate.believe(known).mean.argsort()
        parents = [known[index] for index in order[:PARENTS]]
        drawn = {self._moved(self._draws.choice(parents)) for _ in range(DRAWN)}
        options = sorted(drawn - self._seen.keys(), key=lambda one: (one.computed, one.setting))
        if not options:
            return []
        least = float(self._surrogate.believe(known).mean.min())
        gain = self._surrogate.believe(options).expected_improvement(least)
        return [options[index] for index in np.argsort(-gain, kind="stable")[:TRIED]]

    def _moved(self, parent: StepSchedule) -> StepSchedule:
        for _ in range(self._draws.randint(1, MOST_MOVES)):
            parent = random_move(parent, self._measured.steps, self._draws)
        return parent

    def _confirm(self) -> bool:
        """Measure the most promising schedule that lacks noise samples on its next block; return
        False if none lacks any."""
        known = [one for one, ids in self._seen.items() if len(ids) < BLOCK * len(self._blocks)]
        if not known:
            return False
        best = known[int(self._surrogate.believe(known).mean.argmin())]
        # Successive halving may have measured a part of a block.
        missing = [block for block in self._blocks if not set(block) <= set(self._seen[best])]
        self._measure([best], missing[0])
        return True

    def _measure(self, schedules: list[StepSchedule], noise_ids: range) -> None:
        self._measured.errors(schedules, noise_ids)
        for schedule in schedules:
            ids = sorted({*self._seen.get(schedule, []), *noise_ids})
            self._seen[schedule] = ids
            pair = self._measured.errors([schedule, self._start], ids)
            difference, _ = paired_difference(pair[0], pair[1])
            self._surrogate.observe(schedule, difference, len(ids))
