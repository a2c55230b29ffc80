"""Plans for `apga`: one look, as `heatmap` takes it, with label maps of groups of landmarks to learn beside them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autolmk.networks.apga import published_architecture
from autolmk.networks.topology import Topology
from autolmk.planners.published import require_memory, unchanged
from autolmk.planning import rules
from autolmk.planning.planner import Planner, PlanRequest, Preset
from autolmk.planning.window_search import Search
from autolmk.plans import Architecture, Configuration, LabelMap, Normalization, Schedule, Windows

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

NAME, WITH_LABELS = "apga", "apga_labels"
RESIDUAL_BLOCKS = 3  # a stage, as published, where the preset is residual; else one, as deep as its plain stages
STEM, DECODER = 2, 2  # convolutions
RADIUS = 2.0  # of balls and capsules, in widths of the heatmap's Gaussian
KNOWN = 0.5  # share of the cases that must tell a landmark's state, or hold a value of a label map
CLUSTER, MOST_CLUSTERS = 2, 6  # least mean size, in points that span a simplex; of them
LABEL_SHARE = 0.1  # of what the heatmaps' loss can fall, that the label maps' loss can
RADIUS_UNTIL_KNOWN = 1.0  # memory does not depend on it


class ApgaPlanner(Planner):
    """`apga`, which learns landmarks alone, and `apga_labels`, which learns regions beside them, or one of the two.

    Regions pay on some data and cost steps on all. So where they are wanted both are planned, and
    autolmk_find_best_configuration takes the one with regions where the held-out cases gain by it.
    """

    @dataclass(frozen=True)
    class Options(Planner.Options):
        """The options of this planner. labels: whether regions are learnt beside the landmarks: off, on, or compare,
        which plans both. auto: compare where the dataset has label maps of its own, else off.
        """

        labels: Literal["auto", "off", "on", "compare"] = "auto"

    def plan(self, request: PlanRequest) -> dict[str, Configuration]:
        """Plan the configurations of APGA, see `Planner.plan`."""
        wanted, why = self.options.labels, "as demanded (--set labels)"
        if wanted == "auto":
            own = label_maps(request.fingerprint)[0][0].value is not None
            wanted = "compare" if own else "off"
            why = (
                "most cases have label maps"
                if own
                else "regions drawn from landmarks are learnt only where --set labels=compare shows that cases gain"
            )
        result: dict[str, Configuration] = {}
        if wanted != "on":
            result[NAME] = _plain(request, f"{wanted}: {why}")
        if wanted != "off":
            result[WITH_LABELS] = _with_labels(request, f"{wanted}: {why}")
        return result


def _plain(request: PlanRequest, why: str) -> Configuration:
    """Landmarks alone: without regions, their decoder and their half of the FDT."""
    options = {"pseudo_label": False}
    c = _search(request, {"options": options}).configuration(request.spacing)
    reasons = {"label_maps": why, "options.pseudo_label": why, **_why_blocks(request.size)}
    return dataclasses.replace(c, why={**c.why, **reasons})


def _with_labels(request: PlanRequest, why: str) -> Configuration:
    """Landmarks and regions."""
    maps, why_maps = label_maps(request.fingerprint)
    c = _search(request, {"label_maps": maps}).configuration(request.spacing)
    radius = float(f"{RADIUS * max(c.sigma):.4g}")
    weight, why_weight = label_weight(c)
    reasons = {
        "label_maps": why_maps,
        "label_maps.radius": f"{RADIUS:g} times the Gaussian's width",
        "options.pseudo_label": why,
        "options.label_weight": why_weight,
        **_why_blocks(request.size),
    }
    maps = tuple(m if m.value is not None else dataclasses.replace(m, radius=radius) for m in maps)
    options = {"pseudo_label": True, "label_weight": weight}
    return dataclasses.replace(c, label_maps=maps, options=options, why={**c.why, **reasons})


def _why_blocks(preset: Preset) -> dict[str, str]:
    blocks = "3 a stage, as published" if preset.residual else "1 a stage, as deep as the preset's stages"
    return {"architecture.n_conv_per_stage": f"a stem of two convolutions, then residual blocks: {blocks}"}


def _search(request: PlanRequest, fixed: dict[str, Any]) -> ApgaSearch:
    """The search for window and network, with fields of the configuration that are fixed."""
    return ApgaSearch(NAME, request.fingerprint, request.size, request.device, request.budget, fixed)


class ApgaSearch(Search):
    """The search for window and spacing with APGA's network and its memory."""

    def architecture(self, shape: Topology) -> Architecture:
        """The preset's widths in residual stages, two convolutions a decoder stage."""
        n, blocks = len(shape.strides), RESIDUAL_BLOCKS if self.preset.residual else 1
        return dataclasses.replace(
            super().architecture(shape),
            n_conv_per_stage=(STEM, *(blocks,) * (n - 1)),
            n_conv_per_stage_decoder=(DECODER,) * (n - 1),
            residual=True,
        )


def label_maps(fingerprint: Fingerprint) -> rules.Because[tuple[LabelMap, ...]]:
    """The user's own, where most cases have them; else of groups of landmarks, with a radius yet to be chosen."""
    values = [int(v) for v, n in fingerprint.label_values.items() if n >= KNOWN * fingerprint.n_cases]
    if values:
        return tuple(LabelMap(f"label {v}", value=v) for v in values), (
            f"{fingerprint.label_maps} of {fingerprint.n_cases} cases have a label map; values that most cases hold"
        )
    groups = label_groups(fingerprint)
    unused = (
        f"the label maps of {fingerprint.label_maps} of {fingerprint.n_cases} cases are not used, as no value occurs "
        f"in {KNOWN:.0%} of the cases; "
        if fingerprint.label_maps
        else ""
    )
    return tuple(LabelMap(name, names, RADIUS_UNTIL_KNOWN) for name, names in groups.items()), (
        f"{unused}all landmarks, those of a slice, and clusters of the mean shape: {', '.join(groups)}"
    )


def label_groups(fingerprint: Fingerprint) -> dict[str, tuple[str, ...]]:
    """The groups of landmarks that label maps draw: all, those that share a slice, and compact clusters (Ward) of the
    mean shape, so many that each has, on average, twice the points that span a volume. Of landmarks whose state most
    cases tell; no group twice.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    known = [name for name in fingerprint.landmarks if _mostly_known(fingerprint, name)]
    groups = {"all": tuple(known or fingerprint.landmarks)}
    for i, group in enumerate(fingerprint.co_slice_groups, start=1):
        groups[f"slice {i}"] = tuple(name for name in known if name in group.names)
    placed = [n for n in known if n in fingerprint.mean_shape and np.isfinite(fingerprint.mean_shape[n]).all()]
    count = min(MOST_CLUSTERS, len(placed) // (CLUSTER * (fingerprint.ndim + 1)))
    if count > 1:
        places = np.array([fingerprint.mean_shape[name] for name in placed], dtype=np.float64)
        cluster = fcluster(linkage(places, "ward"), count, "maxclust")
        for i in range(1, count + 1):
            groups[f"cluster {i}"] = tuple(n for n, k in zip(placed, cluster, strict=True) if k == i)
    result: dict[str, tuple[str, ...]] = {}
    for name, members in groups.items():
        if members and members not in result.values():
            result[name] = members
    return result


def _mostly_known(fingerprint: Fingerprint, name: str) -> bool:
    seen = fingerprint.landmark_statistics[name]
    told = seen.n_present + seen.n_absent
    return seen.n_present > 0 and told >= KNOWN * (told + seen.n_unknown)


def label_weight(configuration: Configuration) -> rules.Because[float]:
    """The weight of the label maps' loss, so large that the Dice loss, which falls by 1, is a tenth of what
    cross-entropy falls: from the logarithm of the number of cells to the Gaussian's own entropy.
    """
    c = configuration
    cells = [n // s for n, s in zip(c.patch_size, c.architecture.output_stride, strict=True)]
    widths = [g / (s * o) for g, s, o in zip(c.sigma, c.spacing, c.architecture.output_stride, strict=True)]
    flat = math.log(math.prod(cells))
    entropy = sum(math.log(width) + 0.5 * math.log(2 * math.pi * math.e) for width in widths)
    falls = max(1.0, flat - entropy)
    return float(f"{LABEL_SHARE * falls:.3g}"), (
        f"{LABEL_SHARE:g} of the {falls:.3g} that the heatmaps' loss can fall, from {flat:.3g} (log of "
        f"{math.prod(cells)} cells) to the Gaussian's entropy"
    )


class ApgaPublishedPlanner(Planner):
    """One configuration, `apga_published`: the network, loss and numbers of the publication, whatever the data."""

    SIDE, BATCH, SIGMA, EPOCHS, RATE = 128, 2, 5.0, 80, 1e-3

    def plan(self, request: PlanRequest) -> dict[str, Configuration]:
        """Plan APGA as published, see `Planner.plan`. The preset does not matter. AutolmkError where the memory target
        is too small.
        """
        fingerprint, spacing, d = request.fingerprint, request.spacing, request.fingerprint.ndim
        reach, why_reach = rules.extents_to_cover(fingerprint, (0.0,) * len(fingerprint.pose.rotation))
        step = spacing or rules.rounded([r / self.SIDE for r in reach])
        normalization = (Normalization("window"),) * len(fingerprint.channel_names)
        iterations = math.ceil(0.8 * fingerprint.n_cases / self.BATCH)
        everything = tuple(fingerprint.landmarks)
        configuration = Configuration(
            trainer=NAME,
            data_identifier=rules.data_identifier(step, normalization),
            spacing=step,
            patch_size=(self.SIDE,) * d,
            batch_size=self.BATCH,
            normalization=normalization,
            windows=Windows("whole", 1.0),
            architecture=published_architecture(d),
            sigma=rules.rounded([self.SIGMA * s for s in step]),
            augmentation=unchanged(fingerprint),
            schedule=Schedule(self.EPOCHS, iterations, None, self.RATE, 0.0, 0.0, 0.1, "apga"),
            shape_prior=False,
            label_maps=(LabelMap("all", everything, float(f"{RADIUS * self.SIGMA * max(step):.4g}")),),
            options={"parity": True},
            why={
                **dict.fromkeys(("patch_size", "batch_size", "architecture", "sigma", "label_maps"), "as published"),
                **dict.fromkeys(("windows", "augmentation", "shape_prior", "options.parity"), "as published"),
                "augmentation.mirror_axis": "windows are not mirrored, as published",
                "spacing": "as demanded" if spacing else f"{self.SIDE} voxels span {why_reach}",
                "normalization": "as published: mean -+ 2 standard deviations of the voxels above 0 become 0 and 255",
                "schedule": f"as published; an epoch sees 80 % of the cases once, {self.BATCH} at a time",
            },
        )
        require_memory(request, configuration)
        return {f"{NAME}_published": configuration}


PublishedPlanner = ApgaPublishedPlanner  # its name on command lines
