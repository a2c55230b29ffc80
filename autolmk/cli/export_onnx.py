"""autolmk_export_onnx: a trained model for onnxruntime, with a runner that needs neither torch nor autolmk."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autolmk.cli.common import OK, option, parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_export_onnx`; return its exit code."""
    arguments = parser(
        "Write a trained model as ONNX graphs, with pipeline.json and run_onnx.py, which predicts a case.",
        usage="autolmk_export_onnx -m MODEL_FOLDER -o FOLDER [options]",
        examples=("autolmk_export_onnx -m path/to/model_folder -o model_onnx",),
    )
    arguments.under("model and results")
    option(arguments, "-m", "--model", required=True, metavar="MODEL_FOLDER", help="a model's folder, or a packed one")
    option(arguments, "-o", "--output", required=True, metavar="FOLDER", help="new or empty")
    option(arguments, "--trust-code", action="store_true", help="run trainers' sources that lie in the model folder")
    return run(_export, arguments, argv)


def _export(args: argparse.Namespace) -> int:
    from autolmk.export_onnx import export_onnx

    folder = export_onnx(Path(args.model).expanduser(), Path(args.output).expanduser(), trust_code=args.trust_code)
    print(f"exported: {folder}; predict with: python {folder / 'run_onnx.py'} IMAGE -o POINTS.mrk.json")
    return OK


if __name__ == "__main__":
    sys.exit(main())
