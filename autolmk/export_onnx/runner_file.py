"""run_onnx.py: the runner and all that it calls, in one file."""

from __future__ import annotations

from autolmk.errors import AutolmkError
from autolmk.export_onnx.sources import INSIDE, TORCH_FREE, Name, RunnerSources, inside

SECOND_LOOK = "autolmk.prediction.second_look"
REPLACED: dict[Name, Name] = {  # what needs torch, and what stands in for it
    ("autolmk.prediction.first_look", "Look"): (TORCH_FREE, "Look"),
    (SECOND_LOOK, "_Looks._see"): (TORCH_FREE, "see_landmarks"),
    ("autolmk.networks.precision", "Precision"): (TORCH_FREE, "Precision"),
    ("autolmk.networks.precision", "MixedPrecision"): (TORCH_FREE, "MixedPrecision"),
    ("autolmk.codecs", "Codec"): (TORCH_FREE, "Codec"),
    ("autolmk.codecs.codec", "Codec"): (TORCH_FREE, "Codec"),
}
DROPPED: frozenset[Name] = frozenset()

HEADER = '''"""Predict the landmarks of one case with the exported model beside this file.

    python run_onnx.py image.nii.gz -o points.mrk.json

Needs NumPy, SciPy, SimpleITK and onnxruntime; neither torch nor autolmk. autolmk's export wrote this file from its own
sources, of version {version}: each part below is a module of it, reduced to what this runner calls, so that both
compute the same. pipeline.json holds every number. The points are in mm, LPS.

Copyright autolmk's contributors; Apache License 2.0.
"""

from __future__ import annotations

import sys
import types

PARTS: dict[str, str] = {{}}  # name of a module -> its source, each after those that it imports


def load() -> None:
    """Make the modules of their sources."""
    for name, source in PARTS.items():
        steps = name.split(".")
        for i in range(1, len(steps) + 1):
            dotted, above = ".".join(steps[:i]), ".".join(steps[: i - 1])
            if dotted not in sys.modules:
                sys.modules[dotted] = types.ModuleType(dotted)
            if above:
                setattr(sys.modules[above], steps[i - 1], sys.modules[dotted])
        exec(compile(source.lstrip(), f"{{__file__}}:{{name}}", "exec"), sys.modules[name].__dict__)
'''

FOOTER = """
load()

if __name__ == "__main__":
    sys.exit(sys.modules["{runner}"].main())
"""


def runner_source(version: str) -> str:
    """The text of run_onnx.py."""
    runner = "autolmk.export_onnx.runner"
    sources = RunnerSources(REPLACED, DROPPED)
    sources.add(runner, "main")
    parts = [HEADER.format(version=version)]
    for module in sources.ordered():
        text = sources.text(module)
        if "'''" in text or text.endswith("\\"):
            raise AutolmkError(
                "the runner cannot be written",
                file=module,
                found="three single quotation marks in a source",
                remedy="write them in another way",
            )
        parts.append(f"# ---- {module} " + "-" * max(0, 110 - len(module)))
        parts.append(f"PARTS[{inside(module)!r}] = r'''\n{text}\n'''\n")
    parts.append(FOOTER.format(runner=f"{INSIDE}.export_onnx.runner"))
    return "\n".join(parts)
