"""Recipe: from the held-out detections of several models to the final predictor.

`model_selection` chooses; `ensembling`, `autolmk.postprocessing` and `error_radius` are what a recipe applies;
`packing` puts it and its members into one folder; `results` reads and writes what comes out. Nothing here needs torch.
"""

from __future__ import annotations

from autolmk.selection.recipe import RECIPE, Conclusion, Recipe, RecipeMember

__all__ = [
    "Conclusion",
    "RecipeMember",
    "RECIPE",
    "Recipe",
]
