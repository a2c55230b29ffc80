"""A model folder, or a packed one, as ONNX graphs, pipeline.json and run_onnx.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import autolmk
from autolmk.errors import AutolmkError, some
from autolmk.files.atomic import replacing
from autolmk.files.locks import LOCK_FILES, exclusive
from autolmk.files.serialization import make_folder, to_json, write_json

if TYPE_CHECKING:
    from autolmk.prediction.model import Model
    from autolmk.prediction.predictor import Predictor

RUNNER = "run_onnx.py"


def export_onnx(model_folder: Path, output_folder: Path, *, trust_code: bool = False) -> Path:
    """Write a trained model for onnxruntime; the folder that holds it.

    model_folder: of one configuration or a packed one, with all its folds. output_folder: new or empty; it gets a graph
    a network, pipeline.json with every number before and after it, and run_onnx.py, which predicts a case. trust_code:
    run trainers' sources that lie in the model folder. AutolmkError where the model is damaged, where onnx or
    onnxruntime is not installed, or where something of it is not in the runner.
    """
    from autolmk.export_onnx.graphs import require_packages
    from autolmk.prediction.predictor import Predictor

    require_packages()
    _require_empty(output_folder)
    predictor = Predictor(model_folder, device="cpu", trust_code=trust_code)
    make_folder(output_folder)
    with exclusive(output_folder):
        _require_empty(output_folder)  # still: nobody else writes an export there now
        return _export(predictor, output_folder)


def _require_empty(folder: Path) -> None:
    """AutolmkError where anything is in the folder."""
    found = sorted({file.name for file in folder.iterdir()} - LOCK_FILES) if folder.is_dir() else []
    if found:
        raise AutolmkError(
            "the folder for the export is not empty",
            file=folder,
            found=some(found),
            remedy="choose a new folder, or empty it",
        )


def _export(predictor: Predictor, output_folder: Path) -> Path:
    """Into an empty folder, which is empty again where anything fails."""
    from autolmk.export_onnx.runner_file import runner_source

    try:
        content = pipeline(predictor, output_folder)
        with replacing(output_folder / RUNNER) as place:
            place.write_text(runner_source(autolmk.__version__))
        write_json(output_folder / "pipeline.json", content)
    except BaseException:
        for file in output_folder.iterdir():  # all of it is ours: it was empty
            if file.name not in LOCK_FILES and not file.is_dir():
                file.unlink()
        raise
    return output_folder


def pipeline(predictor: Predictor, folder: Path) -> dict[str, Any]:
    """The content of pipeline.json; the graphs that it names are written into `folder`."""
    from autolmk.data import normalization, preprocessing
    from autolmk.export_onnx.runner import VERSION
    from autolmk.prediction import candidates, first_look, second_look, stage

    first = predictor.plans
    return {
        "version": VERSION,
        "autolmk": autolmk.__version__,
        "conventions": CONVENTIONS,
        "constants": {
            "resampling": {"spline_order": preprocessing.SPLINE_ORDER, "clipped_to_the_range_before": True},
            "normalization": {"linear_up_to": normalization.LINEAR, "at_most": normalization.MOST},
            "tiling": {
                "looked_at_again_below_centrality": first_look.BORDER,
                "rounds": first_look.ROUNDS,
                "central_enough": candidates.CENTRAL_ENOUGH,
                "merged_within_sigmas": stage.MERGE_SIGMAS,
                "candidates": first_look.N_CANDIDATES,
            },
            "search": {"step_in_window_sides": second_look.NEIGHBOUR, "candidates": second_look.N_CANDIDATES},
        },
        "dataset": first.dataset_name,
        "unit": first.unit,
        "channels": list(first.channel_names),
        "landmarks": list(first.landmarks),
        "nifti_affine": None if predictor.description is None else predictor.description.nifti_affine,
        "mirror": predictor.test_time.mirror,
        "step": predictor.test_time.step,
        "recipe": None if predictor.recipe is None else to_json(predictor.recipe),
        "models": [_model(model, folder, f"model{i}") for i, model in enumerate(predictor.models)],
    }


CONVENTIONS = {
    "voxels": "array order (z, y, x) or (y, x); 0 is the centre of the first voxel",
    "points": "(x, y, z) mm in LPS, as DICOM and ITK have it; (x, y) in 2D; pixels where unit is px",
    "orientation": "axes permuted and reversed to (z, y, x), each towards larger coordinates; nothing is interpolated",
    "order": "orientation, normalization, resampling to spacing (field of view and centre kept), windows, graph, "
    "decoding, merging, assignment of sides, rows, shape prior, slices; per stage; then the recipe, if there is one",
    "graphs": "data (windows, C, *patch_size), or data (1, windows, C, *patch_size) and landmarks (1, windows); scores",
}


def _model(model: Model, folder: Path, name: str) -> dict[str, Any]:
    """A model's plans and its stages."""
    from autolmk.export_onnx.graphs import decoding, write_graph

    stages = []
    for i, stage in enumerate(model.stages):
        members = []
        for fold, member, measured in zip(model.folds, stage.members, stage.measured, strict=True):
            file = f"{name}_stage{i}_fold_{fold}.onnx"
            sizes = len(model.plans.channel_names), len(model.plans.landmarks)
            write_graph(folder / file, member, stage.configuration, *sizes)
            members.append({"file": file, "untrained": list(member.untrained), "measured": to_json(measured)})
        codecs = [decoding(member.codec) for member in stage.members]
        if stage.configuration.windows.kind != "landmark" and any(codec != codecs[0] for codec in codecs):
            raise AutolmkError(
                "this model cannot be exported: its folds are decoded in different ways",
                file=model.model_folder,
                remedy="predict with autolmk_predict",
            )
        for entry, codec in zip(members, codecs, strict=True):
            entry["decoding"] = codec
        stages.append({"configuration": to_json(stage.configuration), "members": members})
    return {"name": model.model_folder.name, "plans": to_json(model.plans), "stages": stages}
