"""Parts of a fingerprint that must suit each other."""

from __future__ import annotations

from typing import Any


def contradiction(found: Any) -> str | None:
    """Name parts of a `Fingerprint` that do not suit each other; None where all do."""
    d, p, names = found.ndim, found.physical_ndim, set(found.landmarks)
    per_axis = ("median_spacing", "spacing_percentile_10", "median_shape", "shape_percentile_10", "shape_percentile_90")
    if d not in (2, 3) or p not in (2, 3) or not found.landmarks or not found.channel_names:
        return f"{d} image axes, {p} physical ones, {len(names)} landmarks, {len(found.channel_names)} channels"
    if len(found.intensity) != len(found.channel_names):
        return f"intensities of {len(found.intensity)} channels, for {len(found.channel_names)}"
    for key in per_axis:
        numbers = getattr(found, key)
        if len(numbers) != d or not all(number > 0 for number in numbers):
            return f"{key} {list(numbers)} instead of {d} numbers above 0"
    for case, image in found.cases.items():
        if not len(image.shape) == len(image.spacing) == d or not all(n > 0 for n in (*image.shape, *image.spacing)):
            return f"{case}: shape {list(image.shape)}, spacing {list(image.spacing)}, for {d} image axes"
    odd = [name for name, place in found.mean_shape.items() if len(place) != p]
    if odd:
        return f"mean_shape of {odd[0]} {list(found.mean_shape[odd[0]])} on {p} physical axes"
    looks = {len(look) for look in found.appearances.values()}
    if looks - {len(found.channel_names)}:
        return f"appearances of {sorted(looks)} channels, for {len(found.channel_names)}"
    if found.mean_rotation and [len(row) for row in found.mean_rotation] != [p] * p:
        return f"mean_rotation {found.mean_rotation} on {p} physical axes"
    strangers = {*found.midline, *found.mean_shape, *(name for pair in found.pairs for name in pair)} - names
    if len(names) < len(found.landmarks) or set(found.landmark_statistics) != names or strangers:
        return "other landmarks in one of its parts than in the list of all"
    return None
