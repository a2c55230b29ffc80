"""A bundle put into the results folder: whole or not at all, never in the place of another model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autolmk.bundles.card_page import html_page, markdown
from autolmk.bundles.in_place import read, unpack
from autolmk.bundles.manifest import CARD_HTML, CARD_MARKDOWN, MANIFEST, Manifest, parse
from autolmk.errors import AutolmkError
from autolmk.files.atomic import refuse_link
from autolmk.files.locks import exclusive
from autolmk.files.serialization import make_folder, read_json
from autolmk.plans import Plans
from autolmk.selection import RECIPE, Recipe

INSTALLING = ".installing_"


def install(place: Path, results: Path, *, trust_code: bool = False) -> tuple[Path, bool]:
    """Put a bundle, a zip or the folder of an unpacked one, into results/DATASET/MODEL; gives that folder, and whether
    it is new: the same bundle may be installed again, and nothing is then written.

    AutolmkError, and nothing written, where the bundle is damaged or misleads (see `unpack`), its model contradicts its
    manifest, another model is in its place, or the disk refuses.
    """
    manifest, card = read(place)
    target = results / manifest.dataset / manifest.model
    if os.path.lexists(target):
        _require_same(target, manifest)
        return target, False
    new = not target.parent.exists()
    make_folder(target.parent)
    try:
        with _begun(target) as unpacked:
            if os.path.lexists(target):  # another process has just installed it
                _require_same(target, manifest)
                return target, False
            unpack(place, unpacked, trust_code=trust_code)
            _require_model(unpacked, manifest)
            (unpacked / CARD_MARKDOWN).write_text(markdown(card), encoding="utf-8")  # anew: never a stranger's page
            (unpacked / CARD_HTML).write_text(html_page(card), encoding="utf-8")
            unpacked.rename(target)
    except OSError as error:
        raise AutolmkError(
            "a bundle cannot be installed", file=target, found=error.strerror or str(error),
            remedy="free disk space, or choose another folder with --results",
        ) from None  # fmt: skip
    finally:
        if new:
            with suppress(OSError):  # it holds a model now
                target.parent.rmdir()
    return target, True


@contextmanager
def _begun(target: Path) -> Iterator[Path]:
    """Where to unpack the model of `target`: in a locked folder beside it, which is gone afterwards. What a killed
    command left there is removed. AutolmkError where another process is installing the same model."""
    folder = target.parent / f"{INSTALLING}{target.name}"
    refuse_link(folder)
    make_folder(folder)
    unpacked = folder / target.name
    try:
        with exclusive(folder):
            try:
                if os.path.lexists(unpacked):
                    shutil.rmtree(unpacked)
                yield unpacked
            finally:
                shutil.rmtree(unpacked, ignore_errors=True)
    finally:
        with suppress(OSError):  # another process holds it, or there are files of others in it
            folder.rmdir()


def _require_same(target: Path, manifest: Manifest) -> None:
    """AutolmkError where what is in the model's place is not the same bundle."""
    kept = target / MANIFEST
    try:
        same = not target.is_symlink() and parse(read_json(kept), file=kept) == manifest
    except AutolmkError:
        same = False
    if not same:
        raise AutolmkError(
            "another model is in this bundle's place",
            file=target,
            expected=f"no {manifest.model} of {manifest.dataset}",
            remedy="rename or remove that folder first, choose another results folder with --results, or predict from "
            "the bundle itself: autolmk_predict -m BUNDLE",
        )


def _require_model(folder: Path, manifest: Manifest) -> None:
    """AutolmkError where what was unpacked is not the model that the manifest names, or its plans cannot be read."""
    if manifest.packed:
        recipe = Recipe.load(folder)
        models, dataset = [folder / member.model for member in recipe.members], recipe.dataset_name
        fits = {model.name for model in models} == {name.partition("/")[0] for name in manifest.files if "__" in name}
    else:
        models, dataset, fits = [folder], manifest.dataset, True
    found = {Plans.load(model / "plans.json").dataset_name for model in models} | {dataset}
    if found != {manifest.dataset} or not fits:
        raise AutolmkError(
            "a bundle's model is not the one that its manifest names",
            file=folder / RECIPE if manifest.packed else folder / "plans.json",
            found=", ".join(sorted(found)),
            expected=f"{manifest.model} of {manifest.dataset}",
            remedy="ask for another bundle: this one was put together wrongly",
        )
