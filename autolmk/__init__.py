"""autolmk: landmark localisation in medical images that configures itself.

    import autolmk
    predictor = autolmk.Predictor(model_folder)
    landmarks = predictor.predict(array, autolmk.Geometry.from_sitk(image))

Importing the package is cheap: each name is loaded when it is first used.
"""

# No `from __future__ import annotations` here: it would hide the sub-package autolmk.annotations.
import importlib
from typing import TYPE_CHECKING, Any

from autolmk import moved

if TYPE_CHECKING:
    from autolmk.errors import AutolmkError
    from autolmk.geometry import Geometry
    from autolmk.image import Image
    from autolmk.landmarks import Landmarks, Status
    from autolmk.prediction.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["AutolmkError", "Geometry", "Image", "Landmarks", "Predictor", "Status", "__version__"]

_HOME = {
    "AutolmkError": "autolmk.errors",
    "Geometry": "autolmk.geometry",
    "Image": "autolmk.image",
    "Landmarks": "autolmk.landmarks",
    "Predictor": "autolmk.prediction.predictor",
    "Status": "autolmk.landmarks",
}

moved.install()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autolmk' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
