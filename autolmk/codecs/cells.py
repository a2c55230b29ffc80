"""The cell codec: every cell of a window says where each landmark lies from it, and whether it lies in the cell itself.

Noothout et al., "Deep learning-based regression and classification for automatic landmark localization in medical
images", IEEE Transactions on Medical Imaging 2020. Displacements d (voxels of the window, array order) are learned as
sign(d) log10(|d| + 1). Decoding is a vote: cells' places plus displacements, averaged with weights that follow from the
probabilities c that the landmark lies in them. See `codec`; N is the number of cells, x a cell's centre.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from autolmk.codecs.balance import Shares
from autolmk.codecs.codec import Candidates, Codec, HeldOut, Target, padded
from autolmk.codecs.constants import constant
from autolmk.errors import AutolmkError
from autolmk.landmarks import Status

Voting = Literal["mean", "power_2", "power_4", "around_2", "around_1", "best"]

LONGEST = 4.0  # of a learned log displacement: 10^4 voxels
CERTAIN = 30.0  # evidence from which its exponential's logarithm is itself


@dataclass(frozen=True)
class Rule:
    """Weights of a vote: c^power of the cells at most `reach` cells an axis from the candidate's, None for all."""

    power: float
    reach: int | None


RULES: dict[Voting, Rule] = {
    "mean": Rule(1.0, None),  # the paper's
    "power_2": Rule(2.0, None),
    "power_4": Rule(4.0, None),
    "around_2": Rule(1.0, 2),
    "around_1": Rule(1.0, 1),
    "best": Rule(1.0, 0),
}
UNMEASURED: Voting = "around_1"  # far cells know less, and a rare gross vote among many far ones costs nothing


@dataclass(frozen=True)
class CellTarget(Target):
    """The target of `CellCodec`. displacements: for each axis (B, L, n) float64, the logarithmic displacement from the
    axis's n rows of cells: it depends on nothing else. cells: (B, L) flat index of the cell that holds the point, -1
    for none. cell_size: (D,) voxels.
    """

    displacements: tuple[Tensor, ...]
    cells: Tensor
    cell_size: tuple[int, ...]


class CellCodec(Codec):
    """Codec of cells that vote, for an output (B, L, 1 + D, *O): a cell's logit for holding the landmark, and the
    logarithmic displacement to it.

    patch_size, cell_size: (D,) input voxels. voting: a rule of RULES, or "measured": that which suits held-out cases
    best, UNMEASURED until it is measured. exclusive: whether logits are those of one choice among cells and elsewhere,
    whose logit is 0, or each of a question of its own. Raises ValueError where a window is no whole number of cells.

    >>> codec = CellCodec((16, 16), (4, 4))
    >>> target = codec.encode(voxels=torch.tensor([[[5.25, 9.5]]]), status=torch.tensor([[1]]))
    >>> rows, columns = target.displacements  # (B, L, 4) each, of the rows of cells along an axis
    >>> logits = 5.0 * F.one_hot(target.cells, codec.n_cells).view(1, 1, 4, 4)
    >>> output = torch.stack(torch.broadcast_tensors(logits, rows[..., None], columns[..., None, :]), dim=2)
    >>> codec.decode(codec.scores(output)).voxels[0, 0, 0].round(decimals=3).tolist()
    [5.25, 9.5]
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        cell_size: Sequence[int],
        *,
        voting: Literal["measured"] | Voting = "measured",
        exclusive: bool = True,
        n_candidates: int = 5,
    ) -> None:
        super().__init__()
        if len(patch_size) != len(cell_size) or any(n % s for n, s in zip(patch_size, cell_size, strict=True)):
            raise ValueError(f"patch size {tuple(patch_size)} must be whole cells of {tuple(cell_size)}")
        self.cell_size, self.exclusive, self.n_candidates = tuple(cell_size), exclusive, n_candidates
        self.shape = tuple(n // s for n, s in zip(patch_size, cell_size, strict=True))
        self.measured = voting == "measured"
        self.shares = Shares()
        self.voting: Voting = UNMEASURED if voting == "measured" else voting

    @property
    def n_cells(self) -> int:
        """The number N of cells."""
        return math.prod(self.shape)

    def encode(self, voxels: Tensor, status: Tensor, landmarks: Tensor | None = None) -> CellTarget:
        """Encode points as displacements from cells, see `Codec.encode`. A point outside the window has displacements
        too, and no cell.
        """
        displacements, index = [], torch.zeros(status.shape, dtype=torch.int64, device=status.device)
        inside = status == Status.PRESENT
        for axis, (n, size) in enumerate(zip(self.shape, self.cell_size, strict=True)):
            place = voxels[..., axis].double().nan_to_num().clamp(-1e6, 1e6)
            displacements.append(log_displacement(place[..., None] - self.centres(axis, place.device)))
            row = ((place + 0.5) / size).floor().long()
            inside = inside & (row >= 0) & (row < n)
            index = index * n + row
        side = [n * size for n, size in zip(self.shape, self.cell_size, strict=True)]
        share = self.shares(voxels, status, side, landmarks)
        return CellTarget(tuple(displacements), torch.where(inside, index, -1), self.cell_size, share=share)

    def centres(self, axis: int, device: torch.device | str = "cpu") -> Tensor:
        """The cells' centres along an axis, (n,) float64 input voxels."""
        size = self.cell_size[axis]
        return torch.arange(self.shape[axis], dtype=torch.float64, device=device) * size + (size - 1) / 2

    def scores(self, output: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """The output itself, (B, L, 1 + D, *O) float32: logits and logarithmic displacements may be averaged."""
        return output.float()

    def mirror(self, scores: Tensor, axis: int, partner: Sequence[int]) -> Tensor:
        """Mirror the scores along an array axis, see `Codec.mirror`. Displacements along the axis change their sign."""
        result = scores.flip(3 + axis).index_select(1, constant(partner, scores.device, torch.int64))
        result[:, :, 1 + axis].neg_()
        return result

    def heights(self, scores: Tensor) -> Tensor:
        """The cells' logits, (B, L, *O)."""
        return scores[:, :, 0]

    @torch.no_grad()
    def decode(self, scores: Tensor) -> Candidates:
        """Decode the cells' votes, see `Codec.decode`. Candidates are cells whose logit is a local maximum, each with
        the vote of the codec's rule.

        Rules that reach over all cells speak for the best candidate only; for the others only the cells next to theirs
        vote. Rules of a reach vote alike for all. Log-odds are those of "in this cell or in one next to it", so that a
        landmark at a cell's border, which shares its probability among cells, counts as sure as one in the middle.
        Spread is that of these cells' votes.
        """
        return self._decode(scores, RULES[self.voting], self.n_candidates)

    def _decode(self, scores: Tensor, rule: Rule, n: int) -> Candidates:
        scores = scores.double()
        logits = scores[:, :, 0]
        votes = self._votes(scores)
        evidence = self._evidence(logits)
        peaks = logits == F.max_pool2d(logits, 3, 1, 1) if logits.ndim == 4 else logits == F.max_pool3d(logits, 3, 1, 1)
        standing = evidence.masked_fill(~peaks, -math.inf).flatten(2)
        log_odds, cells = standing.topk(min(n, self.n_cells), dim=2)
        log_c = (logits if self.exclusive else F.logsigmoid(logits)).flatten(2)
        voxels, spread = [], []
        for k in range(log_odds.shape[2]):
            reach = 1 if k > 0 and rule.reach is None else rule.reach
            place, _ = self._mean(votes, rule.power * log_c, cells[:, :, k], reach)
            voxels.append(place)
            spread.append(self._mean(votes, log_c, cells[:, :, k], 1)[1])
        none = log_odds.isneginf()
        places = torch.stack(voxels, 2).masked_fill(none[..., None], math.nan)
        spreads = torch.stack(spread, 2).masked_fill(none, math.nan)
        found = torch.cat([places, log_odds[..., None], spreads[..., None]], -1).cpu()  # one copy for the host to wait
        return padded(Candidates(found[..., :-2], found[..., -2], found[..., -1]), n)

    def _votes(self, scores: Tensor) -> Tensor:
        """(B, L, D, N) where each cell says that the landmark is."""
        grid = torch.meshgrid(*[self.centres(axis, scores.device) for axis in range(len(self.shape))], indexing="ij")
        return (torch.stack(grid) + displacement(scores[:, :, 1:])).flatten(3)

    def _evidence(self, logits: Tensor) -> Tensor:
        """(B, L, *O) log-odds that one of a cell and its neighbours holds the landmark: against elsewhere where cells
        exclude each other, else were they independent; for one cell alone its logit."""
        pool = F.avg_pool2d if logits.ndim == 4 else F.avg_pool3d
        if self.exclusive:
            highest = logits.flatten(2).amax(2).view(*logits.shape[:2], *[1] * len(self.shape))
            near: Tensor = (pool((logits - highest).exp(), 3, 1, 1) * 3 ** len(self.shape)).log() + highest
            return near
        total = pool(F.softplus(logits), 3, 1, 1) * 3 ** len(self.shape)  # minus the logarithm of "none of them"
        return torch.where(total > CERTAIN, total, torch.expm1(total.clamp(max=CERTAIN)).log())

    def _mean(self, votes: Tensor, log_weight: Tensor, cells: Tensor, reach: int | None) -> tuple[Tensor, Tensor]:
        """Weighted mean (B, L, D) of votes (B, L, D, N), and their standard deviation (B, L), the axes' root mean
        square; log_weight: (B, L, N); cells: (B, L), within whose reach votes count."""
        if reach is not None:
            near, outside = self._near(cells, reach)
            log_weight = log_weight.gather(2, near).masked_fill(outside, -math.inf)
            votes = votes.gather(3, near[:, :, None].expand(*votes.shape[:3], near.shape[2]))
        weight = log_weight.softmax(2)[:, :, None]
        mean = (weight * votes).sum(3)
        variance = (weight * (votes - mean[..., None]).square()).sum(3)
        return mean, variance.mean(2).sqrt()

    def _near(self, cells: Tensor, reach: int) -> tuple[Tensor, Tensor]:
        """(indices of the cells at most `reach` cells an axis from cells (B, L); whether they lie outside), both
        (B, L, (2 reach + 1) ** D)."""
        index = torch.zeros_like(cells)[..., None]
        outside = torch.zeros_like(index, dtype=torch.bool)
        steps = torch.arange(-reach, reach + 1, device=cells.device)
        for axis, n in enumerate(self.shape):
            row = (cells // math.prod(self.shape[axis + 1 :]) % n)[..., None] + steps
            index = (index[..., None] * n + row.clamp(0, n - 1)[..., None, :]).flatten(2)
            outside = (outside[..., None] | ((row < 0) | (row >= n))[..., None, :]).flatten(2)
        return index, outside

    # -- which rule -------------------------------------------------------------------------------------------------

    def measure(self, held_out: Iterable[HeldOut]) -> dict[str, Any]:
        """Measure, see `Codec.measure`, `voting`, where the codec's rule is to be measured, and `voting_errors`, see
        `measure_voting`.
        """
        if not self.measured:
            return {}
        errors = measure_voting(self, held_out)
        return {"voting": min(errors, key=errors.__getitem__), "voting_errors": errors} if errors else {}

    @classmethod
    def pooled(cls, measured: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Pool the folds, see `Codec.pooled`: the rule of the smallest mean distance over all folds, as each one's few
        held-out windows tell little.
        """
        if len(measured) < 2:
            return super().pooled(measured)
        errors = _of_folds(measured)
        return {"voting": min(errors, key=errors.__getitem__), "voting_errors": errors} if errors else {}

    def adopt(self, measured: Mapping[str, Any]) -> None:
        """Adopt the rule that was measured, see `Codec.adopt`. AutolmkError where the rule is not known."""
        rule = measured.get("voting")
        if not self.measured or rule is None:
            return
        if rule not in RULES:
            raise AutolmkError(
                "a fold was measured with a rule of voting that is not known",
                found=f"decoding.voting {rule!r}",
                expected=", ".join(RULES),
                remedy="update autolmk, or train this fold again",
            )
        self.voting = rule


def _of_folds(measured: Sequence[Mapping[str, Any]]) -> dict[Voting, float]:
    """rule -> mean over the folds of what `measure_voting` found; rules that not all of them know are left out. Empty
    where no fold was measured. AutolmkError where these are no distances."""
    tables: list[Any] = [found.get("voting_errors") for found in measured if found]
    if not all(isinstance(t, dict) and all(isinstance(v, (int, float)) and v >= 0 for v in t.values()) for t in tables):
        raise AutolmkError(
            "what folds measured of voting is damaged",
            found=f"decoding.voting_errors {tables!r}"[:300],
            expected="a distance in voxels a rule",
            remedy="restore measured.json, or train this fold again",
        )
    return {
        name: sum(t[name] for t in tables) / len(tables) for name in RULES if tables and all(name in t for t in tables)
    }


def measure_voting(codec: CellCodec, held_out: Iterable[HeldOut]) -> dict[Voting, float]:
    """Mean distance (voxels of the window) between the vote and the truth by rule, over the present landmarks inside
    held-out windows; empty without any. Ties go to the rule that stands first in RULES."""
    distances: dict[Voting, list[Tensor]] = {name: [] for name in RULES}
    for window in held_out:
        voxels, status = window.voxels.double().cpu(), window.status.cpu()
        inside = codec.encode(voxels, status).cells >= 0
        for name, rule in RULES.items():
            found = codec._decode(window.scores, rule, 1).voxels[:, :, 0]
            distances[name].append((found - voxels).norm(dim=-1)[inside])
    every = {name: torch.cat(each) if each else torch.empty(0) for name, each in distances.items()}
    return {name: float(each.mean()) for name, each in every.items() if len(each)}


def log_displacement(d: Tensor) -> Tensor:
    """The logarithmic displacement (...) of d (...) voxels, sign(d) log10(|d| + 1)."""
    return d.sign() * d.abs().log1p() / math.log(10)


def displacement(t: Tensor) -> Tensor:
    """The displacement (...) voxels whose logarithmic one is t (...), inverse of `log_displacement`: sign(t) (10^|t| -
    1).
    """
    return t.sign() * torch.expm1(t.abs().clamp(max=LONGEST) * math.log(10))
