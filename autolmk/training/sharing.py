"""Sharing between the ranks of a training: the rows of each batch, the time, and what they were
asked. See `ranks`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autolmk import ranks
from autolmk.errors import AutolmkError
from autolmk.fold.log import RunLog
from autolmk.plans import Configuration
from autolmk.training.schedule import Clock
from autolmk.training.signals import Signals


def rows_of_rank(configuration: Configuration) -> tuple[int, int] | None:
    """The rows of each batch that this rank makes, from and to; None: all."""
    if ranks.size() == 1:
        return None
    require_shares([configuration], ranks.size())
    each = configuration.batch_size // ranks.size()
    return ranks.rank() * each, (ranks.rank() + 1) * each


def require_shares(configurations: Sequence[Configuration], size: int) -> None:
    """Raise AutolmkError where `size` ranks cannot share the batches of each configuration evenly: the planned batch is
    that of all ranks together.
    """
    batches = [c.batch_size for c in configurations]
    if all(batch % size == 0 for batch in batches):
        return
    whole = math.gcd(*batches)
    possible = [n for n in range(1, whole + 1) if whole % n == 0]
    most = max(n for n in possible if n <= size)
    raise AutolmkError(
        f"a batch cannot be shared by {size} GPUs",
        found=f"planned batches of {', '.join(f'{c.batch_size} ({c.trainer})' for c in configurations)}; all GPUs "
        "share one, so that what is trained is what was planned",
        expected=f"a number of GPUs that divides them: {', '.join(map(str, possible))}",
        remedy=f"give -num_gpus {most}, or train otherwise than planned: with a batch_size that is a multiple of "
        f"{size} in the plans, or by --set for the last stage",
    )


class Settlement:
    """The next thing that all ranks of a run do: by the first rank's clock, and by what any of them was asked, see
    `Signals`.

    With one rank, what that is asked, at any time.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self._stop = self._finish = self._save = False

    def settle(self, clock: Clock, *, save: bool = False) -> None:
        """Share what was asked since the last time, and hold `clock` at the first rank's time. save: whether a
        checkpoint is due, by the first rank."""
        asked, signals = self.signals.save() or (save and ranks.first()), self.signals
        if ranks.size() == 1:
            self._save |= asked
            return
        elapsed = clock.flowing() if ranks.first() else 0.0
        here = [elapsed, signals.received or 0, signals.stop(), signals.finish(), asked]
        elapsed, number, *flags = ranks.largest([float(value) for value in here])
        self._stop, self._finish = bool(flags[0]), bool(flags[1])
        self._save |= bool(flags[2])
        signals.received = int(number) or None
        clock.hold(elapsed)

    def stop(self) -> bool:
        """Whether the run is to save and stop."""
        return self.signals.stop() if ranks.size() == 1 else self._stop

    def finish(self) -> bool:
        """Whether training is to end now."""
        return self.signals.finish() if ranks.size() == 1 else self._finish

    def save(self) -> bool:
        """Whether a checkpoint is to be written; asked once."""
        asked, self._save = self._save, False
        return asked


class Unlogged(RunLog):
    """The log of a rank that is not the first: nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.loggers, self.entries = folder, (), []

    def add(self, kind: str, iteration: int, elapsed: float, values: Mapping[str, Any], *, message: str = "") -> None:
        """Log nothing: another rank does."""

    def draw(self) -> None:
        """Draw nothing: another rank does."""

    def close(self) -> None:
        """Close nothing: there is no file."""


def seed_apart(seed: int, iteration: int) -> None:
    """Let torch's random numbers within steps differ between ranks; the first one's stay as they are."""
    if not ranks.first():
        state = np.random.SeedSequence([seed, iteration, ranks.rank()]).generate_state(2)
        torch.manual_seed(int(state[0]) << 32 | int(state[1]))


def mean_numbers(numbers: Mapping[str, float]) -> dict[str, float]:
    """Named numbers, each the mean over the ranks; of a name that some ranks lack, over the others."""
    each = ranks.gathered(dict(numbers))
    names = dict.fromkeys(name for one in each for name in one)
    return {name: float(np.mean([one[name] for one in each if name in one])) for name in names}
