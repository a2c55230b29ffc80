"""The mirror plane of a landmark configuration and the left/right pairs, from geometry and names.

In the frame of the points; how images show the plane is said by `landmark_statistics.in_grids`.

Legend: L landmarks, P physical axes. `pose.mean_shape` gives the points that this is meant for.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are used

from autolmk.geometry import FloatArray

SIDES = (
    ("left", "right"),
    ("l", "r"),
    ("lt", "rt"),
    ("lft", "rgt"),
    ("lh", "rh"),
    ("sin", "dex"),
    ("sinister", "dexter"),
    ("sinistra", "dextra"),
    ("sx", "dx"),
    ("links", "rechts"),
    ("li", "re"),
    ("gauche", "droite"),
    ("izq", "der"),
)
OTHER_SIDE = {a: b for left, right in SIDES for a, b in ((left, right), (right, left))}
LEFT = {left for left, _ in SIDES}

TOLERANCE = 0.08  # how far a reflected point may be from its partner, over the size of the configuration
MIDLINE = 0.05  # of the width: how far from the plane a landmark may be that lies on it, where that is more
MATCHED_SHARE = 0.75  # of the landmarks that must find a partner (or lie on the plane) where only geometry speaks
CENTRAL = 4.0  # tolerances that the middle of all landmarks may be off a plane that is tried
FEWEST_PAIRS = 3  # off the plane, where only geometry speaks


@dataclass(frozen=True, eq=False)
class Mirror:
    """The plane normal . x = offset (line, in 2D) in the frame of the points it was fitted to.

    normal: (P,), unit length, its largest component positive. pairs: left before right by name. midline: on it.
    residual: root mean square mm between reflected landmarks and their partners. complete: no landmark is left over.
    """

    normal: FloatArray
    offset: float
    pairs: tuple[tuple[str, str], ...]
    midline: tuple[str, ...]
    residual: float
    complete: bool

    def reflect(self, points: npt.ArrayLike) -> FloatArray:
        """Points (..., P) -> (..., P)."""
        x = np.asarray(points, dtype=np.float64)
        return x - 2 * ((x @ self.normal) - self.offset)[..., None] * self.normal


def pairs_from_names(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names that differ in one word of side only (`Or_L` and `Or_R`, `leftEye` and `rightEye`, `L1` and `R1`): (left,
    right). Ambiguous ones are left out."""
    words = {name: _words(name) for name in names}
    by_words: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        by_words.setdefault(words[name], []).append(name)
    partners = {name: _named_partners(words[name], by_words) for name in names}
    return tuple(
        (name, found[0])
        for name, found in partners.items()
        if len(found) == 1 and partners[found[0]] == [name] and _is_left(words[name], words[found[0]])
    )


def mirror(
    points: npt.ArrayLike, names: Sequence[str], pairs: Sequence[tuple[str, str]] | None = None
) -> Mirror | None:
    """The mirror plane of `points` (L, P), usually a mean shape; NaN rows are left out.

    pairs: all that there are; default those that names show. The plane follows from the pairs. Given ones stay as they
    are, and the other landmarks lie on the plane or have no partner; beside pairs by name, the others are matched
    about it. Without any, all bisectors of two landmarks are tried, and None is the answer unless at least three
    quarters of the landmarks, in at least three pairs, agree with one plane within 8 % of the size. A landmark lies
    on the plane up to 4 % of the size or 5 % of the width off, whichever is more.
    """
    x = np.asarray(points, dtype=np.float64)
    finite = np.asarray(np.isfinite(x).all(axis=1))
    shown = [name for name, ok in zip(names, finite.tolist(), strict=True) if ok]
    where = {name: row for row, name in enumerate(shown)}
    known = pairs_from_names(names) if pairs is None else tuple(pairs)
    fixed = [(where[a], where[b]) for a, b in known if a in where and b in where]
    x = x[finite]
    if len(x) < 2:
        return None
    size = float(np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean()))
    by_pairs = _about(x, shown, _plane_of_pairs(x, fixed), fixed, declared=pairs is not None) if fixed else None
    best = by_pairs
    if pairs is None:
        alone = _about(x, shown, _plane_search(x, TOLERANCE * size), ())
        if alone is None or len(alone[0].pairs) < FEWEST_PAIRS or alone[1] < MATCHED_SHARE:
            alone = None
        if by_pairs is None or by_pairs[0].residual > 2 * TOLERANCE * size or (alone and alone[1] > by_pairs[1]):
            best = alone  # names that mean something else than sides
    if best is None:
        return None
    return dataclasses.replace(best[0], complete=best[0].complete and len(shown) == len(names))


def _about(
    x: FloatArray,
    names: Sequence[str],
    plane: tuple[FloatArray, float] | None,
    fixed: Sequence[tuple[int, int]],
    *,
    declared: bool = False,
) -> tuple[Mirror, float] | None:
    """The mirror near `plane`, fitted and matched by turns, and the share of landmarks that are matched. declared:
    `fixed` are all pairs that there are."""
    if plane is None:
        return None
    tolerance = TOLERANCE * float(np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean()))
    partner = _partners(x, plane, tolerance, fixed, declared)
    for _ in range(10):
        if not (partner >= 0).any():
            return None
        plane = _fitted_plane(x, partner)
        before, partner = partner, _partners(x, plane, tolerance, fixed, declared)
        if np.array_equal(before, partner):
            break
    return _result(x, names, plane, partner), float((partner >= 0).mean())


def _result(
    x: FloatArray, names: Sequence[str], plane: tuple[FloatArray, float], partner: npt.NDArray[np.int_]
) -> Mirror:
    normal, offset = plane
    if normal[int(np.argmax(np.abs(normal)))] < 0:
        normal, offset = -normal, -offset
    matched = partner >= 0
    apart = _reflected(x, (normal, offset))[matched] - x[partner[matched]]
    found = []
    for i, j in enumerate(partner):
        if i < j:
            first, second = names[i], names[int(j)]
            found.append((second, first) if _is_left(_words(second), _words(first)) else (first, second))
    midline = tuple(names[i] for i, j in enumerate(partner) if i == j)
    residual = float(np.sqrt((apart**2).sum(axis=1).mean()))
    return Mirror(normal, offset, tuple(found), midline, residual, bool(matched.all()))


# -- names ------------------------------------------------------------------------------------------------------------


def _words(name: str) -> tuple[str, ...]:
    """Lower-case words of a name, split at punctuation, capitals and digits."""
    return tuple(w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+", name))


def _named_partners(words: tuple[str, ...], by_words: dict[tuple[str, ...], list[str]]) -> list[str]:
    result: list[str] = []
    for place, word in enumerate(words):
        if word in OTHER_SIDE:
            result += by_words.get((*words[:place], OTHER_SIDE[word], *words[place + 1 :]), [])
    return result


def _is_left(words: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether `words` has the left one of the two words of side in which it differs from `other`."""
    return any(a in LEFT and OTHER_SIDE[a] == b for a, b in zip(words, other, strict=False) if a != b)


# -- planes -----------------------------------------------------------------------------------------------------------


def _reflected(x: FloatArray, plane: tuple[FloatArray, float]) -> FloatArray:
    normal, offset = plane
    return x - 2 * (x @ normal - offset)[:, None] * normal


def _plane_of_pairs(x: FloatArray, pairs: Sequence[tuple[int, int]]) -> tuple[FloatArray, float] | None:
    """The plane that halves the distances of known pairs best."""
    a, b = x[[i for i, _ in pairs]], x[[j for _, j in pairs]]
    difference = a - b
    if np.linalg.norm(difference, axis=1).max() <= 0:
        return None
    _, _, vt = np.linalg.svd(difference)
    normal = vt[0]
    return normal, float(((a + b) / 2 @ normal).mean())


def _fitted_plane(x: FloatArray, partner: npt.NDArray[np.int_]) -> tuple[FloatArray, float]:
    """Least squares over matched landmarks: |S a - b|^2 = |a - b|^2 + 4 (n.a)(n.b) about the common centre, so n is the
    eigenvector of the least eigenvalue of the symmetrised sum of a b^T."""
    matched = partner >= 0
    a, b = x[matched], x[partner[matched]]
    centre = a.mean(axis=0)
    product = (a - centre).T @ (b - centre)
    _, vectors = np.linalg.eigh(product + product.T)
    normal = np.asarray(vectors[:, 0], dtype=np.float64)
    return normal, float(centre @ normal)


def _plane_search(x: FloatArray, tolerance: float) -> tuple[FloatArray, float] | None:
    """Of all bisectors of two landmarks, the one about which the reflected configuration lies nearest to itself."""
    first, second = np.triu_indices(len(x), k=1)
    difference = x[first] - x[second]
    length = np.linalg.norm(difference, axis=1)
    normals = difference / np.maximum(length, 1e-300)[:, None]
    offsets = ((x[first] + x[second]) / 2 * normals).sum(axis=1)
    central = (
        np.abs(normals @ x.mean(axis=0) - offsets) <= CENTRAL * tolerance
    )  # a mirror plane goes through the middle
    best, best_cost = None, np.inf
    for i in np.flatnonzero(central & (length > tolerance)):
        plane = (normals[i], float(offsets[i]))
        square = ((_reflected(x, plane)[:, None] - x[None]) ** 2).sum(axis=2).min(axis=1)
        cost = float((square / (square + tolerance**2)).sum())
        if cost < best_cost:
            best, best_cost = plane, cost
    return best


def _partners(
    x: FloatArray,
    plane: tuple[FloatArray, float],
    tolerance: float,
    fixed: Sequence[tuple[int, int]],
    declared: bool,
) -> npt.NDArray[np.int_]:
    """(n,) index of each landmark's partner, its own on the plane, -1 where neither: the assignment of least cost."""
    apart = np.linalg.norm(_reflected(x, plane)[:, None] - x[None], axis=2)
    apart = (apart + apart.T) / 2
    own = np.arange(len(x))
    off = np.abs(x @ plane[0] - plane[1])
    width = 2 * float(np.sort(off)[-2])  # as far as landmarks lie on both sides
    apart[own, own] = off * min(2.0, tolerance / max(MIDLINE * width, 1e-300))
    for i, j in fixed:
        apart[[i, j], :] = apart[:, [i, j]] = np.inf
    if declared:
        apart[own[:, None] != own] = np.inf
    _, nearest = scipy.optimize.linear_sum_assignment(np.minimum(apart, 2 * tolerance))
    good = (nearest[nearest] == own) & (apart[own, nearest] <= tolerance)
    partner = np.where(good, nearest, -1)
    for i, j in fixed:
        partner[i], partner[j] = j, i
    return partner
