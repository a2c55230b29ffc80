"""SLEAP's analysis CSV: a row an instance, with the columns track, frame_idx, instance.score, NODE.x, NODE.y, ...

It names no images: frame 12 belongs to the image whose name ends with the number 12 (leading zeros do not count), in
the folder of the source or of --images. Coordinates are in pixels; an empty field is a node that is not visible.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import Table, whole, wrong
from autolmk.annotations.formats.source import Images, ImportedFiles, head_of, some_files, stem_of
from autolmk.errors import AutolmkError, some


def read(path: Path, options: Options) -> Imported:
    """The cases of one table."""
    source = ImportedFiles(path, options)
    file = source.only_file((".csv",))
    table = Table(file)
    header = table.rows[0][1]
    nodes = [h[:-2] for h in header if h.endswith(".x")]
    lacking = [n for n in nodes if f"{n}.y" not in header]
    twice = sorted({h for h in header if header.count(h) > 1})
    if "frame_idx" not in header or not nodes or lacking or twice:
        wrong(
            file,
            "header",
            some(lacking or twice or header),
            "track,frame_idx,instance.score,NODE.x,NODE.y,NODE.score,...",
        )
    rows = [(line, dict(zip(header, row, strict=True))) for line, row in table.body(1, len(header))]
    rows = _of_one_track(rows, file, options)
    collector = Collector(source, "voxel")
    frames = _frames(source)
    _require_same_count({whole(row["frame_idx"], file, "frame_idx", most=10**8) for _, row in rows}, frames, file)
    for line, row in rows:
        frame = whole(row["frame_idx"], file, f"frame_idx in line {line}", most=10**8)
        video = row.get("video", "")
        points = [[table.number(row[f"{n}.{a}"], line, f"{n}.{a}") for a in "xy"] for n in nodes]
        images = _image(frames, frame, file, line)
        collector.add(f"{video} frame {frame}".strip(), images, nodes, points, file=file)
    return collector.result("frame N is the image whose name ends with the number N")


def _of_one_track(
    rows: list[tuple[int, dict[str, str]]], file: Path, options: Options
) -> list[tuple[int, dict[str, str]]]:
    if options.individual is not None:
        chosen = [(line, row) for line, row in rows if row.get("track", "") == options.individual]
        if not chosen:
            tracks = sorted({row.get("track", "") for _, row in rows})
            wrong(file, "choice of the track", options.individual, f"one of {some(tracks)}", "choose with --individual")
        return chosen
    return rows


def _frames(source: ImportedFiles) -> dict[int, list[Path]]:
    frames: dict[int, list[Path]] = {}
    for image in source.all_images():
        match = re.search(r"(\d{1,9})$", stem_of(image))
        if match:
            frames.setdefault(int(match[1]), []).append(image)
    return frames


def _require_same_count(used: set[int], frames: Mapping[int, list[Path]], file: Path) -> None:
    """AutolmkError where SLEAP's frames, from 0, look as if the images were counted from 1."""
    if 0 in used and 0 not in frames and 1 in frames and max(used) <= max(frames) - 1:
        raise AutolmkError(
            "images look as if they were counted from 1, and SLEAP counts frames from 0",
            file=file,
            found=f"frame 0 in the table; images from {frames[1][0].name} on, none with the number 0",
            expected="an image for each frame, named by its number",
            remedy="extract the frames anew with numbers from 0 (ffmpeg: -start_number 0), or rename them; if they are "
            "right, remove the rows of frames without an image",
        )


def _image(frames: dict[int, list[Path]], frame: int, file: Path, line: int) -> Images | None:
    found = frames.get(frame, [])
    if len(found) > 1:
        raise AutolmkError(
            "several images belong to a frame",
            file=file,
            found=f"frame {frame} in line {line}: {some([f.name for f in found])}",
            expected="one image whose name ends with the frame's number",
            remedy="choose the folder of this video's frames with --images",
        )
    return (found[0],) if found else None


def sniff(path: Path) -> bool:
    """Whether a table has SLEAP's columns."""
    for file in some_files(path, (".csv",)):
        header = head_of(file).partition("\n")[0].split(",")
        if "frame_idx" in header and any(h.endswith(".x") for h in header):
            return True
    return False


FORMAT = Format(
    "sleap",
    "SLEAP's analysis CSV, with the frames as images",
    sniff,
    read,
    ("--images", "--individual", "--first-pixel"),
    ("sleapcsv", "sleapanalysis"),
)
