"""The objects that the checks of a trainer look at: a network, a codec and a batch of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autolmk.codecs import Codec
from autolmk.codecs.balance import counts, restore_counts
from autolmk.conformance.breach import Breach, own_random_state
from autolmk.landmarks import Status
from autolmk.methods.trainer import Trainer
from autolmk.planning.memory import random_batch
from autolmk.plans import Plans

SAMPLED = ((0, 4, 3, 2), (4, 3, 1, 2))  # landmarks of the two samples where a sample has windows of some; none is idle


@dataclass
class Bench:
    """The objects that every check looks at. batch: data (2, C, *patch), voxels (2, L, D), status (2, L); with windows
    a landmark data (2, W, C, *patch), W rows of voxels and status, and landmarks (2, W).
    """

    breach: Breach
    trainer: Trainer
    network: nn.Module
    codec: Codec
    batch: dict[str, Tensor]

    @classmethod
    def set_up(cls, trainer_class: type[Trainer], plans: Plans, breach: Breach) -> Bench:
        """Construct everything, checking types on the way."""
        before = torch.random.get_rng_state()
        with breach.during("constructing it"):
            trainer = trainer_class(plans, plans.configuration("example"))
        if not torch.equal(before, torch.random.get_rng_state()):
            raise breach("constructing it draws random numbers", "another random state", "a constructor that is free")
        heavy = [k for k, v in vars(trainer).items() if isinstance(v, (nn.Module, Tensor))]
        if heavy:
            raise breach("it holds weights", ", ".join(heavy), "modules built by build_network and build_codec only")
        with breach.during("build_network"):
            network = trainer.build_network()
        with breach.during("build_codec"):
            codec = trainer.build_codec()
        for what, value, kind in (("build_network", network, nn.Module), ("build_codec", codec, Codec)):
            if not isinstance(value, kind):
                raise breach(f"{what} returns the wrong thing", type(value).__name__, kind.__name__)
        with breach.during("initialise"):
            trainer.initialise(network)
        return cls(breach, trainer, network, codec, example_batch(trainer))

    @property
    def per_landmark(self) -> bool:
        """Whether each landmark has a window of its own."""
        return self.trainer.looks_at == "landmarks"

    def losses(self, **changes: Tensor) -> dict[str, Tensor]:
        """Named losses of the batch, some of it replaced; checked to be finite scalars with a gradient. Calls differ by
        what is replaced alone: random numbers, counts and the trainer's own state are the same."""
        counted, own = counts(self.codec), copy.deepcopy(dict(self.trainer.state_dict()))
        with self.breach.during("a training step"), own_random_state(0):
            found = self.trainer.training_step(self.network, self.codec, {**self.batch, **changes})
        restore_counts(self.codec, counted)
        if own:
            with self.breach.during("load_state_dict"):
                self.trainer.load_state_dict(own)
        if not isinstance(found, dict) or not found:
            raise self.breach("training_step returns no losses", type(found).__name__, "a dict of named scalars")
        for name, value in found.items():
            if not isinstance(value, Tensor) or value.ndim != 0 or not torch.isfinite(value):
                raise self.breach(f"the loss {name!r} is no finite scalar", value, "a finite tensor without axes")
        return found

    def total(self, **changes: Tensor) -> Tensor:
        """Sum of the losses."""
        return torch.stack(list(self.losses(**changes).values())).sum()

    def scores(self) -> Tensor:
        """The network's scores for the batch."""
        with self.breach.during("network and codec.scores"):
            return scores_of(self.trainer, self.network, self.codec, self.batch)


def scores_of(trainer: Trainer, network: nn.Module, codec: Codec, batch: Mapping[str, Tensor]) -> Tensor:
    """The scores (2, L or W, ...) as prediction gets them."""
    which = (batch["landmarks"],) if "landmarks" in batch else ()
    part = trainer.prediction_network(network).eval()
    with torch.no_grad():
        scores = codec.scores(part(batch["data"], *which), *which)
    network.train()
    return scores


def example_batch(trainer: Trainer) -> dict[str, Tensor]:
    """Two windows of noise, a bright blob at each point; every state, a point beyond the window, NaN coordinates.

    Where each landmark has a window of its own, its window shows its own blob."""
    patch = trainer.configuration.patch_size
    size = torch.tensor(patch, dtype=torch.float64)
    voxels = (0.2 + 0.6 * torch.rand(2, trainer.n_landmarks, len(patch), dtype=torch.float64)) * (size - 1)
    status = torch.full((2, trainer.n_landmarks), Status.PRESENT, dtype=torch.int8)
    status[0, 4], status[1, 3], status[1, 2] = Status.ABSENT, Status.UNKNOWN, Status.UNKNOWN
    voxels[0, 4], voxels[1, 3] = math.nan, math.nan
    voxels[1, 4] = size + 3
    grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in patch], indexing="ij"), -1)
    per_landmark = trainer.looks_at == "landmarks"
    rows = (trainer.n_landmarks,) if per_landmark else ()
    data = 0.1 * torch.randn(2, *rows, trainer.n_channels, *patch)
    for b, k in torch.argwhere(status == Status.PRESENT).tolist():
        place = (b, k) if per_landmark else (b,)
        data[place] += torch.exp(-(grid - voxels[b, k]).square().sum(-1) / 8).float()
    batch = {"data": data, "voxels": voxels, "status": status}
    if not per_landmark:
        return random_batch(trainer, 2, device="cpu") | batch
    order = range(trainer.n_landmarks)
    which = torch.tensor((order, order) if trainer.configuration.windows.per_sample is None else SAMPLED)
    return {name: value[[[0], [1]], which] for name, value in batch.items()} | {"landmarks": which}
