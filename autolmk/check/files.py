"""The faults that the lists of files show, before any image is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from autolmk import imageio
from autolmk.annotations import ending_of
from autolmk.annotations.formats import suggestion
from autolmk.check.report import Fault, Split
from autolmk.dataset import Case, Dataset
from autolmk.errors import AutolmkError, counted, some
from autolmk.files.serialization import near


def list_files(dataset: Dataset) -> tuple[list[Fault], dict[str, tuple[Split, Case]]]:
    """Faults that the lists of files show, and the cases that can be read, with and without landmarks."""
    faults: list[Fault] = []
    cases: dict[str, tuple[Split, Case]] = {}
    for split in ("Tr", "Ts"):
        try:
            listed = dataset.cases(split)
            annotated = dataset.annotation_files(split)
        except AutolmkError as error:
            fault = Fault.of(suggested(error), "dataset")
            faults += [fault] if fault not in faults else []
            continue
        for case in listed:
            cases[f"{split}/{case.identifier}"] = (split, case)
        faults += _extra_files(dataset, split, listed, annotated) + _left_out(dataset, split, listed, annotated)
        faults += _strange_label_maps(dataset, split, {case.identifier for case in listed})
    training = sorted(c.identifier for split, c in cases.values() if split == "Tr")
    both = sorted(set(training) & {c.identifier for split, c in cases.values() if split == "Ts"})
    if both:
        faults.append(
            Fault(
                "warning",
                "cases of the same name are in imagesTr and imagesTs",
                str(dataset.folder),
                found=some(both),
                expected="different cases for training and test",
                remedy="rename or remove them, if they are the same",
            )
        )
    if not training and not faults:
        images = dataset.folder / "imagesTr"
        faults.append(
            Fault(
                "dataset",
                "a dataset has no training images",
                str(images),
                found=imageio.others_in(images),
                expected="CASE_0000.ext",
                remedy=imageio.conversion_in(images) or "add the images, or convert those that are there",
            )
        )
    announced = dataset.description.numTraining
    if training and announced is not None and announced != len(training):
        faults.append(
            Fault(
                "warning",
                "numTraining does not say how many training cases there are",
                str(dataset.folder / "dataset.json"),
                found=str(announced),
                expected=str(len(training)),
                remedy="correct numTraining, or look for missing images",
            )
        )
    return faults, cases


def _extra_files(
    dataset: Dataset, split: Split, cases: Sequence[Case], annotated: Mapping[str, tuple[Path, ...]]
) -> list[Fault]:
    """Annotations without an image, and files that nobody reads."""
    identifiers = {case.identifier for case in cases}
    of_another_kind = {fault.case for fault in _left_out(dataset, split, cases, annotated)}
    faults = [
        Fault(
            "warning",
            "landmarks without an image",
            str(files[0]),
            case,
            found=f"no image {case}_0000.* in images{split}{near(case, identifiers)}",
            expected="an image for each case with landmarks",
            remedy="add the image, or correct the case's name",
        )
        for case, files in annotated.items()
        if case not in identifiers and case not in of_another_kind
    ]
    used = {file.name for case in cases for file in case.images}
    used |= {voxels.name for case in cases for file in case.images for voxels in imageio.data_files(file)}
    for kind in ("images", "landmarks", "labels"):
        folder = dataset.folder / f"{kind}{split}"
        files = [f for f in sorted(folder.iterdir()) if not f.name.startswith(".")] if folder.is_dir() else []
        if kind == "images":
            extra = [f.name for f in files if f.name not in used and not _data(f) and _annotated(f, annotated) is None]
        elif kind == "labels":
            extra = [f.name for f in files if imageio.ending_of(f) is None and not _data(f)]
        else:
            extra = [f.name for f in files if ending_of(f) is None]
        if extra:
            faults.append(_unread(dataset, folder, extra))
    return faults


def _unread(dataset: Dataset, folder: Path, names: Sequence[str]) -> Fault:
    """Files that nothing reads: what they look like, if it is a format that can be imported."""
    known = next((said for name in names if (said := suggestion(folder / name)) is not None), None)
    return Fault(
        "warning",
        "files that nothing reads",
        str(folder),
        found=some(names),
        expected=f"images{_that_end(dataset)}, landmark files, label maps",
        remedy=known or imageio.conversion(names) or "remove them, or correct file_ending in dataset.json",
    )


def suggested(error: AutolmkError) -> AutolmkError:
    """The same error, with how to import the file that it is about, where that looks like a known format."""
    said = None if error.file is None or not Path(error.file).is_file() else suggestion(Path(error.file))
    if said is None:
        return error
    return AutolmkError(
        error.problem, file=error.file, case=error.case, found=error.found, expected=error.expected, remedy=said
    )


def _annotated(file: Path, annotated: Mapping[str, tuple[Path, ...]]) -> str | None:
    """The annotated case that an image is of by its name."""
    if imageio.ending_of(file) is None:
        return None
    return next((case for case in (imageio.stem_of(file), imageio.split_name(file)[0]) if case in annotated), None)


def _left_out(
    dataset: Dataset, split: Split, cases: Sequence[Case], annotated: Mapping[str, tuple[Path, ...]]
) -> list[Fault]:
    """Annotated cases whose images are of another kind than file_ending says: they would be lost without a word."""
    folder, listed = dataset.folder / f"images{split}", {case.identifier for case in cases}
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        case = None if file.name.startswith(".") else _annotated(file, annotated)
        if case is not None and case not in listed:
            found.setdefault(case, file)
    return [
        Fault(
            "case",
            "the image of a case is of another kind than the dataset's",
            str(file),
            case,
            found=file.name,
            expected=f"an image that ends with {dataset.description.file_ending}, as file_ending in dataset.json says",
            remedy="remove file_ending from dataset.json, and all pictures or all volumes count; or convert the image",
            split=split,
        )
        for case, file in found.items()
    ]


def _strange_label_maps(dataset: Dataset, split: Split, identifiers: Set[str]) -> list[Fault]:
    """Label maps that belong to no image: they are ignored."""
    found = dataset.label_files(split)
    strange = [case for case in found if case not in identifiers]
    if not strange:
        return []
    folder = dataset.folder / f"labels{split}"
    return [
        Fault(
            "warning",
            "label maps without an image",
            str(found[strange[0]][0] if len(strange) == 1 else folder),
            found=f"{counted(len(strange), 'label map')} of {len(found)}: "
            + some([found[case][0].name + _meant(found[case][0], case, identifiers) for case in strange]),
            expected="the case's name and an ending, without the number of a channel: CASE.nii.gz for CASE_0000.nii.gz",
            remedy="rename them, or add the images: nothing uses these label maps",
        )
    ]


def _meant(file: Path, case: str, identifiers: Set[str]) -> str:
    """Near names of a label map without an image, above all that of an image's first channel."""
    without_channel = imageio.split_name(file)[0]
    return f"; did you mean {without_channel!r}?" if without_channel in identifiers else near(case, identifiers)


def _that_end(dataset: Dataset) -> str:
    ending = dataset.description.file_ending
    return "" if ending is None else f" that end with {ending}"


def _data(file: Path) -> bool:
    """Whether a file belongs to a header beside it (.mhd and .raw, .nhdr and .raw.gz, .hdr and .img)."""
    headers = [file.with_name(file.name.partition(".")[0] + ending) for ending in (".mhd", ".nhdr", ".hdr")]
    return imageio.ending_of(file) is None and any(h.exists() and imageio.ending_of(h) is not None for h in headers)
