"""nnLandmark's datasets, which `autolmk.dataset.nnlandmark` converts as a whole."""

from __future__ import annotations

from pathlib import Path

from autolmk.annotations.formats.imported import Format


def sniff(path: Path) -> bool:
    """Whether a folder has nnLandmark's files."""
    known = ("all_landmarks_voxel.json", "name_to_label.json")
    return path.is_dir() and (path / "imagesTr").is_dir() and any((path / name).is_file() for name in known)


FORMAT = Format("nnlandmark", "dataset of nnLandmark", sniff, None, ("--unlisted",), ("nnlm",))
