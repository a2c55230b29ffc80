"""autolmk_install: a bundle, checked, into the results folder."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from autolmk.cli.common import OK, add_folders, argument, folders_from, option, parser, run
from autolmk.errors import AutolmkError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point, also of autolmk_install_pretrained_model_from_zip."""
    arguments = parser(
        "Put a bundle into the results folder, after every path, size and SHA-256 in it was checked. Nothing in it is "
        "run, and no other model is overwritten.",
        usage="autolmk_install BUNDLE [options]",
        examples=("autolmk_install skull.autolmk.zip",),
    )
    arguments.under("bundle")
    argument(arguments, "bundle", metavar="BUNDLE", help="a file of autolmk_export, or the folder of an unzipped one")
    option(arguments, "--sha256", metavar="HEX", help="SHA-256 that the file must have, as autolmk_export printed it")
    option(arguments, "--trust-code", action="store_true", help="install a bundle that holds code; read it first")
    add_folders(arguments)
    return run(_install, arguments, argv)


def _install(args: argparse.Namespace) -> int:
    from autolmk.bundles.installing import install

    place = Path(args.bundle).expanduser()
    _check_digest(place, args.sha256)
    folder, new = install(place, folders_from(args).results.path, trust_code=args.trust_code)
    print(f"{'installed' if new else 'was installed already'}: {folders_from(args).results.describe(folder)}")
    print(f"model card: {folder / 'model_card.html'}")
    print(f"predict with: autolmk_predict -i IMAGES -o PREDICTIONS -m {shlex.quote(str(folder))}")
    return OK


def _check_digest(place: Path, wanted: str | None) -> None:
    """AutolmkError where the file is not the one of that SHA-256."""
    from autolmk.files.digest import sha256_of

    if wanted is None:
        return
    if not re.fullmatch(r"[0-9a-fA-F]{64}", wanted) or not place.is_file():
        raise AutolmkError(
            "--sha256 is of a file",
            file=place,
            found=wanted[:100],
            expected="64 hexadecimal digits, and a bundle's file",
            remedy="give both as autolmk_export printed them",
        )
    found = sha256_of(place)
    if found != wanted.lower():
        raise AutolmkError(
            "this is not the file that was meant",
            file=place,
            found=f"SHA-256 {found}",
            expected=f"SHA-256 {wanted.lower()}",
            remedy="get the file anew",
        )
