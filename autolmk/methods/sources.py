"""The source code of users' trainers, which travels with a model: copied, hashed, and run only where it is trusted."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, read_json, write_bytes, write_json
from autolmk.methods.registry import TRAINERS, label
from autolmk.paths import SOURCE_FOLDER, SOURCE_RECORD, plain_name

if TYPE_CHECKING:
    from autolmk.methods.trainer import Trainer


@dataclass(frozen=True)
class Source:
    """Where a trainer of a model came from. file: the copy, relative to the model folder. sha256: of its content."""

    specification: str
    class_name: str
    file: str
    sha256: str

    def __post_init__(self) -> None:
        """ValueError where the copy is not one that `keep_sources` writes."""
        folder, _, name = self.file.partition("/")
        if folder != SOURCE_FOLDER or not plain_name(name, "the trainer's file").endswith(".py"):
            raise ValueError(f"a trainer's source lies in {SOURCE_FOLDER}/, got {self.file!r}")
        if not self.class_name.isidentifier():
            raise ValueError(f"class_name must be the name of a class, got {self.class_name!r}")


def keep_sources(specifications: Iterable[str], model_folder: Path) -> dict[str, Source]:
    """Copy users' trainers into the model folder with their hashes, for all stages of a method; specification -> copy.
    Shipped trainers need none.

    AutolmkError where the folder already holds another version: folds of one model share their trainers.
    """
    known = kept_sources(model_folder) if has_checkpoints(model_folder) else {}
    sources, contents = dict(known), {}
    for specification in specifications:
        if specification in TRAINERS:
            continue
        original, class_name = _source_file(specification)
        content = original.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        before = [known[specification]] if specification in known else _of_class(known, class_name)
        if before and all(source.sha256 != sha256 for source in before):
            raise AutolmkError(
                "the trainer's source changed since this model folder was begun",
                file=original,
                found=f"SHA-256 {sha256[:16]}...",
                expected=f"SHA-256 {before[0].sha256[:16]}..., as in {model_folder / before[0].file}",
                remedy="take the earlier source, give the class another name, or remove the model folder to start over",
            )
        copy = _place_of_copy(original.name, sha256, sources.values())
        sources[specification] = Source(specification, class_name, copy, sha256)
        contents[copy] = content
    for copy, content in contents.items():
        write_bytes(model_folder / copy, content)
    if sources:
        write_json(model_folder / SOURCE_RECORD, sources)
    return sources


def _source_file(specification: str) -> tuple[Path, str]:
    """(file, name of the class in it) of a user's trainer."""
    from autolmk.methods.trainer import trainer_class  # imports torch

    cls = trainer_class(specification)
    original = inspect.getsourcefile(cls)
    if original is None:
        raise AutolmkError(
            f"the source of trainer {specification!r} cannot be found",
            expected="a class written in a .py file",
            remedy="put the class into a file and train with -tr file.py:Class",
        )
    return Path(original), cls.__name__


def _place_of_copy(name: str, sha256: str, sources: Iterable[Source]) -> str:
    """SOURCE_FOLDER/name.py, or name_2.py and so on where another file of that name is kept; one copy a content."""
    taken = {source.file: source.sha256 for source in sources}
    stem, n = name.removesuffix(".py"), 1
    place = f"{SOURCE_FOLDER}/{name}"
    while taken.get(place, sha256) != sha256:
        n += 1
        place = f"{SOURCE_FOLDER}/{stem}_{n}.py"
    return place


def _of_class(sources: Mapping[str, Source], class_name: str) -> list[Source]:
    return [source for source in sources.values() if source.class_name == class_name]


def has_checkpoints(model_folder: Path) -> bool:
    """Whether any stage of any fold of a model was trained so far that a checkpoint is left."""
    return any(model_folder.glob("fold_*/**/checkpoint_*"))


def kept_sources(model_folder: Path) -> dict[str, Source]:
    """What `keep_sources` recorded; empty where all trainers are shipped ones. Earlier versions recorded one alone."""
    file = model_folder / SOURCE_RECORD
    if not file.is_file():
        return {}
    value = read_json(file, remedy="restore it, or name the trainer with -tr file.py:Class")
    if isinstance(value, dict) and isinstance(value.get("specification"), str):
        source = from_json(Source, value, file=file)
        return {source.specification: source}
    return from_json(dict[str, Source], value, file=file)


def model_trainer_class(
    specification: str,
    model_folder: Path,
    *,
    trust_code: bool = False,
    given: str | None = None,
    last: bool = True,
) -> type[Trainer]:
    """The trainer to predict with from a model folder that may come from a stranger.

    specification: as the fold's config.json names it. Shipped trainers load as they are. Others load from what the user
    gave with -tr, else from the folder's copy, hash checked, but only with `trust_code`; else AutolmkError. last: of
    the last stage, which alone -tr names.
    """
    from autolmk.methods.trainer import trainer_class  # imports torch

    if given is not None:
        return trainer_class(given)
    if specification in TRAINERS:
        return trainer_class(specification)
    sources = kept_sources(model_folder)
    moved = [source for source in sources.values() if label(source.specification) == label(specification)]
    source = sources.get(specification) or (moved[0] if len(moved) == 1 else None)  # folds may name a file's places
    if source is None:
        raise AutolmkError(
            "a trainer of this model is not shipped with autolmk and its source is missing",
            file=model_folder / SOURCE_RECORD,
            found=f"trainer {specification!r}",
            remedy="name the trainer with -tr file.py:Class or -tr module:Class"
            if last
            else "run the command that trained a finished fold again, where the source is: it keeps the source, and "
            "does not train anew",
        )
    file = model_folder / source.file
    own = "name your own copy with -tr file.py:Class"
    if not trust_code:
        raise AutolmkError(
            "this model was trained with a trainer that is not part of autolmk; its code is not run unasked",
            file=file,
            found=f"trainer {specification!r}" + ("" if last else ", of a stage before the last"),
            remedy="read that file, then predict with --trust-code"
            + (f"; or {own}" if last else "; -tr names the last stage's trainer alone"),
        )
    if not file.is_file() or not file.resolve().is_relative_to(model_folder.resolve()):
        raise AutolmkError(
            "the trainer's source is missing from the model folder",
            file=file,
            remedy="restore the file" + (f", or {own}" if last else ""),
        )
    if hashlib.sha256(file.read_bytes()).hexdigest() != source.sha256:
        raise AutolmkError(
            "the trainer's source was changed after training",
            file=file,
            expected=f"SHA-256 {source.sha256}",
            remedy="restore the file" + (f"; or read it and {own}" if last else ""),
        )
    return trainer_class(f"{file}:{source.class_name}")
