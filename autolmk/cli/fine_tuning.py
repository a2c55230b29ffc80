"""Options of autolmk_train for a start from other weights."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from autolmk.cli.common import Parser, option
from autolmk.errors import AutolmkError


def add_fine_tuning(result: Parser) -> None:
    """Add -pretrained_weights, --freeze and --layer_rates."""
    option(
        result, "-pretrained_weights", type=Path, metavar="FILE",
        help="to start from, by landmark name: a checkpoint, a bundle or a model's folder",
    )  # fmt: skip
    option(
        result, "--freeze", nargs="+", metavar="LAYER", help="layers that stay as -pretrained_weights has them: encoder"
    )
    option(
        result, "--layer_rates", nargs="+", metavar="LAYER=FACTOR",
        help="layers that are trained at the plan's rate times a factor, such as encoder=0.1",
    )  # fmt: skip


def rates_from(args: argparse.Namespace) -> dict[str, float]:
    """The factor of each layer that --layer_rates and --freeze name. AutolmkError where one is no factor, or is given
    twice.
    """
    pairs = [*((name, "0") for name in args.freeze or ()), *(t.partition("=")[::2] for t in args.layer_rates or ())]
    rates = {name: float(factor) for name, factor in pairs if name and re.fullmatch(r"\d{1,3}(\.\d{1,6})?", factor)}
    if len(rates) < len(pairs) or (pairs and args.pretrained_weights is None):
        raise AutolmkError(
            "rates of layers cannot be read"
            if len(rates) < len(pairs)
            else "layers that start fresh have no such rates",
            found=" ".join([*(args.freeze or ()), *(args.layer_rates or ())]),
            expected="each layer once, as --freeze LAYER or --layer_rates LAYER=FACTOR, with -pretrained_weights",
            remedy="correct them, or leave them out",
        )
    return rates
