"""The phantom's anatomy: what is drawn, and which points of it are landmarks, in the model's own frame.

Model millimetres, physical order (x, y[, z]). `phantom` bends, scales and turns it, and puts it on a grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, inf, radians, sin


@dataclass(frozen=True)
class Structure:
    """An ellipsoid of the model, mm, physical order; later structures cover earlier ones.

    radii: infinite along a rod. part_of: the landmark without which it is missing from the image.
    """

    centre: tuple[float, ...]
    radii: tuple[float, ...]
    value: float
    part_of: str | None = None


def _both(centre: tuple[float, ...], radii: tuple[float, ...], value: float, name: str) -> list[Structure]:
    """A structure on the left (+x) and its mirror image on the right."""
    mirrored = (-centre[0], *centre[1:])
    return [Structure(centre, radii, value, f"{name}_L"), Structure(mirrored, radii, value, f"{name}_R")]


HEAD = {
    3: [
        Structure((0, 0, 0), (22, 25, 24), 0.45),
        Structure((0, -24, -4), (3, 5, 3.5), 0.45),
        Structure((0, 0, 0), (20, 23, 22), 1.0),
        Structure((0, 2, 22.5), (3, 3, 3), 1.0),
        Structure((0, 23.5, -4), (3, 3, 3), 1.0),
        Structure((0, 0, 0), (17.8, 20.8, 19.8), 0.6),
        Structure((0, 6, -20.5), (3.5, 3.5, 4), 0.3),
        *_both((4.5, -1, 3), (2.2, 7.5, 3), 0.2, "Ventricle"),
        *_both((8.5, -19, 1), (4.2, 4.2, 4.2), 0.15, "Eye"),
        *_both((8.5, -22, 1), (1.6, 1.3, 1.6), 0.8, "Eye"),
        *_both((19.5, 2, -6), (4, 2.8, 2.8), 0.1, "Ear"),
        Structure((0, -6, -8), (2.5, 2.5, 2.5), 0.95),
        Structure((0, 8, 2), (2.5, 2.5, 2.5), 1.1, "Pineal"),
    ],
    2: [
        Structure((0, 0), (23, 28), 0.45),
        Structure((0, 0), (20, 25), 1.0),
        Structure((0, -25), (3, 3), 1.0),
        Structure((0, 25), (3, 3), 1.0),
        Structure((0, 0), (17.5, 22.5), 0.6),
        *_both((4.5, 2), (2, 7), 0.2, "Ventricle"),
        *_both((8.5, -11), (4, 4), 0.15, "Eye"),
        *_both((19.5, 5), (4, 2.8), 0.1, "Ear"),
        Structure((0, -2), (2.5, 2.5), 0.95),
        Structure((0, 14), (2.5, 2.5), 1.1, "Pineal"),
    ],
}
POINTS: dict[int, dict[str, tuple[float, ...]]] = {
    3: {
        "Nose_Tip": (0, -29, -4),
        "Crown": (0, 2, 22.5),
        "Inion": (0, 23.5, -4),
        "Basion": (0, 6, -20.5),
        "Pituitary": (0, -6, -8),
        "Pineal": (0, 8, 2),
        "Eye_L": (8.5, -19, 1),
        "Eye_R": (-8.5, -19, 1),
        "Ear_L": (19.5, 2, -6),
        "Ear_R": (-19.5, 2, -6),
        "Ventricle_L": (4.5, -8.5, 3),
        "Ventricle_R": (-4.5, -8.5, 3),
    },
    2: {
        "Crown": (0, -25),
        "Chin": (0, 25),
        "Pituitary": (0, -2),
        "Pineal": (0, 14),
        "Eye_L": (8.5, -11),
        "Eye_R": (-8.5, -11),
        "Ear_L": (19.5, 5),
        "Ear_R": (-19.5, 5),
        "Ventricle_L": (4.5, -5),
        "Ventricle_R": (-4.5, -5),
    },
}
SOMETIMES_ABSENT = ("Pineal", "Ear_L", "Ear_R")
CO_SLICE = {  # array axis of the file -> members, each named by its landmark and moved along that axis to the slice
    0: [
        Structure((12, 4, 0), (2.2, 2.2, 2.2), 0.3, "Axial_Key"),
        Structure((9, 13, 0), (2.0, 2.0, 2.0), 0.95, "Axial_Mark"),
        Structure((-9, 4, 0), (1.5, 1.5, inf), 1.2, "Axial_Rod"),
    ],
    2: [
        Structure((0, -10, 12), (2.2, 2.2, 2.2), 0.3, "Sagittal_Key"),
        Structure((0, 8, -11), (inf, 1.5, 1.5), 1.2, "Sagittal_Rod"),
    ],
}
ROW_RADIUS, ROW_STEP, ROW_ASIDE = 27.0, 22.0, 12.0  # mm; degrees between neighbours; mm to the left
ROW_BALL, ROW_VALUE, ROW_LENGTH = 2.0, 1.1, 6


def _row() -> list[Structure]:
    """Identical balls along an arc below the head, at one distance from its surface and from each other. The outermost
    two are no landmarks, so that each landmark has a neighbour on either side."""
    balls = []
    for i in range(ROW_LENGTH):
        angle = radians(ROW_STEP * (i - (ROW_LENGTH - 1) / 2))
        centre = (ROW_ASIDE, ROW_RADIUS * sin(angle), -ROW_RADIUS * cos(angle))
        balls.append(Structure(centre, (ROW_BALL,) * 3, ROW_VALUE))
    return balls


ROW = _row()  # look-alikes
ROW_POINTS = {f"Row_{i}": ball.centre for i, ball in enumerate(ROW) if 0 < i < ROW_LENGTH - 1}
