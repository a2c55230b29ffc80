"""The source code of users' trainers, which travels with a model: copied with the files of its own that it imports,
hashed, and run only where it is trusted."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, make_folder, read_json, write_bytes, write_json
from autolmk.methods.registry import TRAINERS, class_of, label, located, module_of_tree
from autolmk.methods.user_files import PACKAGE, PLUGIN, Tree, dotted_name, imported, loaded
from autolmk.paths import SOURCE_FOLDER, SOURCE_RECORD, plain_name

if TYPE_CHECKING:
    from autolmk.methods.trainer import Trainer


@dataclass(frozen=True)
class Source:
    """The source of a model's trainer. file: the copy of the file that names it, relative to the model folder. sha256:
    of its content. others: copies of the user's files that it imports -> SHA-256; None in records of earlier versions,
    which kept one file alone.
    """

    specification: str
    class_name: str
    file: str
    sha256: str
    others: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where the copies are not such as `keep_sources` writes."""
        for file in (self.file, *(self.others or {})):
            folder, *parts = file.split("/")
            if folder != SOURCE_FOLDER or not parts or not file.startswith(f"{self.root}/"):
                raise ValueError(f"a trainer's source lies in {SOURCE_FOLDER}/, got {file!r}")
            if not [plain_name(part, "the trainer's file") for part in parts][-1].endswith(".py"):
                raise ValueError(f"a trainer's source ends with .py, got {file!r}")
        if not self.class_name.isidentifier():
            raise ValueError(f"class_name must be the name of a class, got {self.class_name!r}")

    @property
    def root(self) -> str:
        """The folder, relative to the model folder, below which the copies import each other."""
        first, *rest = self.file.split("/")[1:]
        return f"{SOURCE_FOLDER}/{first}" if rest else SOURCE_FOLDER

    @property
    def hashes(self) -> dict[str, str]:
        """Copy, relative to the model folder -> SHA-256, of all files."""
        return {self.file: self.sha256, **(self.others or {})}

    def below_root(self) -> dict[str, str]:
        """Copy, relative to root -> SHA-256, of all files."""
        return {file.removeprefix(f"{self.root}/"): sha256 for file, sha256 in self.hashes.items()}

    def others_below_root(self) -> dict[str, str]:
        """The copies of the other files, as `below_root`, without the file that names the trainer."""
        return {
            place: sha256 for place, sha256 in self.below_root().items() if place != self.file[len(self.root) + 1 :]
        }


@dataclass(frozen=True)
class _Originals:
    """A user's trainer where it was written. files: place below a root of their own -> file, the one that names it
    first."""

    specification: str
    class_name: str
    files: dict[str, Path]

    @property
    def entry(self) -> str:
        """Place of the file that names it."""
        return next(iter(self.files))


def keep_sources(specifications: Iterable[str], model_folder: Path) -> dict[str, Source]:
    """Copy users' trainers, with the files of their own that they import, into the model folder with their hashes, for
    all stages of a method; specification -> copy. Shipped trainers need none.

    AutolmkError where the folder already holds another version: folds of one model share their trainers.
    """
    known = kept_sources(model_folder) if has_checkpoints(model_folder) else {}
    sources, contents = dict(known), {}
    for specification in specifications:
        if specification in TRAINERS:
            continue
        originals = _originals(specification)
        content = {place: file.read_bytes() for place, file in originals.files.items()}
        hashes = {place: hashlib.sha256(each).hexdigest() for place, each in content.items()}
        before = [known[specification]] if specification in known else _of_class(known, originals.class_name)
        if before and not any(_changed(source, originals.entry, hashes) is None for source in before):
            raise _source_changed(before[0], originals, hashes, model_folder)
        copies = _copies(originals.entry, hashes, sources.values())
        others = {copies[place]: sha256 for place, sha256 in hashes.items() if place != originals.entry}
        entry = copies[originals.entry], hashes[originals.entry]
        sources[specification] = Source(specification, originals.class_name, *entry, others)
        contents.update({copies[place]: each for place, each in content.items()})
    for copy, each in contents.items():
        make_folder((model_folder / copy).parent)
        write_bytes(model_folder / copy, each)
    if sources:
        write_json(model_folder / SOURCE_RECORD, sources)
    return sources


def _originals(specification: str) -> _Originals:
    """The files of a user's trainer, imported to find them. AutolmkError where it is not written in a .py file."""
    from autolmk.methods.trainer import trainer_class  # imports torch

    trainer_class(specification)
    module, class_name = located("trainer", specification)
    file = inspect.getsourcefile(module)
    if file is None or not file.endswith(".py"):
        raise AutolmkError(
            f"the source of trainer {specification!r} cannot be found",
            expected="a class written in a .py file",
            remedy="put the class into a file and train with -tr file.py:Class",
        )
    if module.__name__.startswith(PLUGIN):
        tree = Tree.of_file(Path(file))
        found = {**imported(tree), **loaded(module)}
    else:
        tree = Tree.of_module(module.__name__, Path(file))
        found = imported(tree)
    files = {_place(tree.entry, tree.file): tree.file}
    return _Originals(specification, class_name, files | {_place(dotted, f): f for dotted, f in sorted(found.items())})


def _place(dotted: str, file: Path) -> str:
    """A module's file below the root of its copy."""
    return dotted.replace(".", "/") + (f"/{PACKAGE}" if file.name == PACKAGE else ".py")


def _changed(source: Source, entry: str, hashes: Mapping[str, str]) -> str | None:
    """The first place whose content is not that of `source`; None where all are alike. Of files that an earlier version
    did not keep, nothing is known."""
    if source.sha256 != hashes[entry]:
        return entry
    if source.others is None:
        return None
    before, now = source.others_below_root(), {place: each for place, each in hashes.items() if place != entry}
    return next((place for place in sorted({*before, *now}) if before.get(place) != now.get(place)), None)


def _source_changed(
    source: Source, originals: _Originals, hashes: Mapping[str, str], model_folder: Path
) -> AutolmkError:
    place = _changed(source, originals.entry, hashes)
    assert place is not None
    before, now = (
        source.sha256 if place == originals.entry else source.others_below_root().get(place),
        hashes.get(place),
    )
    copy = model_folder / (source.file if place == originals.entry else f"{source.root}/{place}")
    what = "the trainer's source" if place == originals.entry else "a file that the trainer's source imports"
    return AutolmkError(
        f"{what} changed since this model folder was begun",
        file=originals.files.get(place, copy),
        found="no such file, or nothing imports it" if now is None else f"SHA-256 {now[:16]}...",
        expected="no such file" if before is None else f"SHA-256 {before[:16]}..., as in {copy}",
        remedy="take the earlier source, give the class another name, or remove the model folder to start over",
    )


def _copies(entry: str, hashes: Mapping[str, str], sources: Iterable[Source]) -> dict[str, str]:
    """Place -> copy: SOURCE_FOLDER/name.py of a file alone, SOURCE_FOLDER/name/place of several; name_2 and so on where
    others of that name are kept. One copy a content."""
    stem, n = entry.removesuffix(f"/{PACKAGE}").rpartition("/")[2].removesuffix(".py"), 1
    alone = len(hashes) == 1 and "/" not in entry
    taken: dict[str, object] = {s.file if s.root == SOURCE_FOLDER else s.root: _content(s) for s in sources}
    wanted: object = hashes[entry] if alone else dict(hashes)
    while True:
        place = f"{SOURCE_FOLDER}/{stem}" + (f"_{n}" if n > 1 else "") + (".py" if alone else "")
        if taken.get(place, wanted) == wanted:
            return {entry: place} if alone else {p: f"{place}/{p}" for p in hashes}
        n += 1


def _content(source: Source) -> object:
    return source.sha256 if source.root == SOURCE_FOLDER else source.below_root()


def _of_class(sources: Mapping[str, Source], class_name: str) -> list[Source]:
    return [source for source in sources.values() if source.class_name == class_name]


def has_checkpoints(model_folder: Path) -> bool:
    """Whether any stage of any fold of a model was trained so far that a checkpoint is left."""
    return any(model_folder.glob("fold_*/**/checkpoint_*"))


def kept_sources(model_folder: Path) -> dict[str, Source]:
    """The sources that `keep_sources` recorded; empty where all trainers are shipped ones. Earlier versions recorded
    one alone.
    """
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
    from autolmk.methods.trainer import Trainer, trainer_class  # imports torch

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
        read = f"read the files in {model_folder / source.root}" if source.others else "read that file"
        raise AutolmkError(
            "this model was trained with a trainer that is not part of autolmk; its code is not run unasked",
            file=file,
            found=f"trainer {specification!r}" + ("" if last else ", of a stage before the last"),
            remedy=f"{read}, then predict with --trust-code"
            + (f"; or {own}" if last else "; -tr names the last stage's trainer alone"),
        )
    for copy, sha256 in source.hashes.items():
        _require_whole(model_folder, copy, sha256, f", or {own}" if last else "")
    here = model_folder.absolute()
    root, file = here / source.root, here / source.file
    tree = Tree(root, dotted_name(file.relative_to(root)), file, frozenset(here / copy for copy in source.hashes))
    found: type[Trainer] = class_of(module_of_tree(tree, "trainer"), source.class_name, "trainer", Trainer, str(file))
    return found


def _require_whole(model_folder: Path, copy: str, sha256: str, otherwise: str) -> None:
    """AutolmkError where a copy is missing or was changed."""
    file = model_folder / copy
    if not file.is_file() or not file.resolve().is_relative_to(model_folder.resolve()):
        raise AutolmkError(
            "the trainer's source is missing from the model folder", file=file, remedy=f"restore the file{otherwise}"
        )
    if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise AutolmkError(
            "the trainer's source was changed after training",
            file=file,
            expected=f"SHA-256 {sha256}",
            remedy="restore the file" + otherwise.replace(", or", "; or read it and"),
        )
