"""Thousands of generated image headers, consistent and contradictory: each is read to 1e-6 mm as an independent
computation has it, or refused with the reason.

    python benchmarks/headers.py --number 1000 --seed 0

Prints how many were read and how many refused for which reason, a line a format. Exit code 1 where one was not as it
must be.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import logging
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))


def main() -> int:
    """Run all formats: tests/helpers/*_headers.py, each with `headers(seed, n)` and `check(header, file)`."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--number", type=int, default=1000, help="headers a format")
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    logging.getLogger("autolmk").setLevel(logging.ERROR)
    wrong = 0
    for module in sorted(
        p.stem for p in (Path(__file__).resolve().parent.parent / "tests" / "helpers").glob("*_headers.py")
    ):
        made, found = importlib.import_module(module), collections.Counter[str]()
        with tempfile.TemporaryDirectory() as folder:
            for i, header in enumerate(made.headers(args.seed, args.number)):
                try:
                    found[made.check(header, Path(folder) / f"case{header.ending}")] += 1
                except Exception:
                    wrong += 1
                    print(f"{module} {i}: not as it must be")
                    traceback.print_exc()
        reasons = ", ".join(f"{n} {reason}" for reason, n in found.most_common())
        print(f"{module.removesuffix('_headers')}: {found.total()} of {args.number} as they must be: {reasons}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
