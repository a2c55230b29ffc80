"""A chain of a heatmap stage and a stage of windows on a tiny 2D dataset: each stage is measured on training cases that
it has not seen, may be broken off and goes on, and nothing of the held-out cases reaches training."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from predictions import a_prediction
from test_training import NAMES, TRAIN, VAL, tiny_plans, weights, write_store

from autolmk.annotations import read_table
from autolmk.data.store import Store
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json
from autolmk.fold.checkpoint import checkpoint_file
from autolmk.fold.log import read_log
from autolmk.fold.measured import Measured
from autolmk.landmarks import Landmarks, Status
from autolmk.methods.sources import keep_sources
from autolmk.paths import MEASURING
from autolmk.plans import Plans, Windows
from autolmk.prediction.chain import look_through
from autolmk.prediction.model import Model
from autolmk.prediction.options import TestTime
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.second_look import Seen, _Looks
from autolmk.prediction.stage import Prepared
from autolmk.trainers.coarse_to_fine import FineTrainer
from autolmk.trainers.heatmap import HeatmapTrainer
from autolmk.training.fit import is_finished
from autolmk.training.loop import Loop
from autolmk.training.stages import (
    _measure,
    hold_out,
    load_chain,
    predictor_of,
    set_aside,
    shares,
    stage_folder,
    train_stages,
    validate_stages,
    weights_before,
)
from autolmk.training.work import StageWork


def staged_plans() -> Plans:
    """heatmap, then two looks at windows of 8 to 16 pixels."""
    plans = tiny_plans(epochs=1)
    first = plans.configurations["heatmap"]
    windows = Windows("landmark", per_sample=2, rounds=2, least_side=(8, 8))
    fine = dataclasses.replace(first, trainer="fine", patch_size=(16, 16), windows=windows, previous_stage="heatmap")
    return dataclasses.replace(plans, configurations={"heatmap": first, "fine": fine})


def works(store: Store) -> list[StageWork]:
    plans = staged_plans()
    return [
        StageWork("heatmap", HeatmapTrainer(plans, plans.configuration("heatmap")), store),
        StageWork("fine", FineTrainer(plans, plans.configuration("fine")), store),
    ]


def train(store: Store, folder: Path, **arguments: Any) -> bool:
    subjects = {case: case for case in [*TRAIN, *VAL]}
    return train_stages(works(store), TRAIN, VAL, folder, subjects=subjects, **{"device": "cpu", **arguments})


def move(store: Store, case: str, change: Callable[[Landmarks], Landmarks]) -> None:
    stored = store.load(case)
    array = np.asarray(stored.array[:])
    store.write(case, dataclasses.replace(stored, array=array, landmarks=change(stored.landmarks)))


def shifted(landmarks: Landmarks) -> Landmarks:
    return Landmarks(landmarks.names, landmarks.points + 5.0, landmarks.status)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), staged_plans())


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "fold_0"
    assert train(store, folder)
    return folder


def test_stages_are_trained_in_order_each_on_its_own_cases(store: Store, trained: Path) -> None:
    earlier = stage_folder(trained, "heatmap")
    assert is_finished(earlier) and is_finished(trained)
    inner, held_out = hold_out(TRAIN, {case: case for case in TRAIN})
    places = (earlier / MEASURING, earlier, trained)
    configs = [read_json(place / "config.json", remedy="") for place in places]
    cases = [(config["train_cases"], config["val_cases"]) for config in configs]
    assert cases == [(inner, held_out), (TRAIN, []), (TRAIN, VAL)]
    last = configs[-1]
    measured = Measured.load(trained)
    assert measured.placement is not None and measured.placement.cases == tuple(held_out)
    assert last["configuration"]["patch_size"] == list(measured.placement.side)
    assert Measured.load(earlier).placement is None


def test_a_first_stage_of_few_cases_goes_on_with_all_of_them(store: Store, trained: Path) -> None:
    """Its weights go on from those that were measured, and what held-out cases told then is kept; windows lie as those
    errors say, and not as what the network has seen by now does."""
    earlier = stage_folder(trained, "heatmap")
    start = checkpoint_file(earlier / MEASURING, "final")
    taken = read_json(earlier / "config.json", remedy="")["pretrained"]
    assert taken["file"] == str(start) and not taken["new"] and not taken["unused"]
    before, after = Measured.load(earlier / MEASURING), Measured.load(earlier)
    assert after.errors == before.errors is not None and after.presence_cases == before.presence_cases > 0
    assert after.shape_cases == len(TRAIN) > before.shape_cases
    _, held_out = hold_out(TRAIN, {case: case for case in TRAIN})
    errors = {}
    for place in (earlier / MEASURING, earlier):
        predict = predictor_of(works(store)[:1], place, torch.device("cpu"))
        errors[place] = _measure(works(store)[1], TRAIN, held_out, predict).spread
    placement = Measured.load(trained).placement
    assert placement is not None and placement.spread == errors[earlier / MEASURING] != errors[earlier]


def test_each_stage_of_a_longer_chain_ends_with_all_cases(store: Store, tmp_path: Path) -> None:
    """Of three stages, the first is trained for each part of the second, which is measured on what neither has seen."""
    plans = staged_plans()
    last = dataclasses.replace(plans.configuration("fine"), previous_stage="fine")
    plans = dataclasses.replace(plans, configurations={**plans.configurations, "finer": last})
    stages = [
        StageWork(name, kind(plans, plans.configuration(name)), store)
        for name, kind in (("heatmap", HeatmapTrainer), ("fine", FineTrainer), ("finer", FineTrainer))
    ]
    subjects = {case: case for case in TRAIN}
    assert train_stages(stages, TRAIN, VAL, tmp_path, subjects=subjects, device="cpu")
    inner, held_out = hold_out(TRAIN, subjects)
    ends = {"": TRAIN, "fine": TRAIN, "fine/heatmap": TRAIN}
    parts = {f"fine/{MEASURING}": inner, f"fine/{MEASURING}/heatmap": inner}
    for place, cases in (ends | parts).items():
        assert read_json(tmp_path / place / "config.json", remedy="")["train_cases"] == cases, place
    for file in (tmp_path / "fine" / MEASURING).rglob("config.json"):
        assert not set(read_json(file, remedy="")["train_cases"]) & set(held_out)


@pytest.mark.parametrize(
    ("sizes", "refitted"),
    [([1] * n, n < 16) for n in (2, 4, 5, 10, 12, 15, 16, 20, 40)] + [([10] * 3, True), ([3] * 20, False)],
)
def test_first_stages_are_refitted_where_holding_out_costs_more_than_a_quarter(
    sizes: list[int], refitted: bool, tmp_path: Path
) -> None:
    subjects = {f"s{i:02d}_{j}": f"s{i:02d}" for i, n in enumerate(sizes) for j in range(n)}
    aside = set_aside(list(subjects), subjects, tmp_path)
    assert aside.refitted == refitted == (len(aside.held_out) > 0.25 * len(subjects))


def test_a_fold_that_was_begun_without_refitting_goes_on_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As folds of earlier versions were, of any number of cases."""
    with monkeypatch.context() as patch:
        patch.setattr("autolmk.training.stages.MOST_LOST", 1.0)
        stopped_in(store, tmp_path, "heatmap", monkeypatch)
    assert train(store, tmp_path)
    inner, _ = hold_out(TRAIN, {case: case for case in TRAIN})
    assert read_json(tmp_path / "heatmap" / "config.json", remedy="")["train_cases"] == inner
    assert not (tmp_path / "heatmap" / MEASURING).exists()
    assert train(store, tmp_path)  # finished, too
    assert not (tmp_path / "heatmap" / MEASURING).exists()


@pytest.mark.parametrize("where", ["autolmk.training.fit.load_pretrained", "autolmk.training.stages._measure"])
def test_a_kill_between_stages_changes_nothing(
    where: str, store: Store, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first stage was measured, and after it was refitted; the seed is that of the beginning."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(where, killed)
        with pytest.raises(KeyboardInterrupt):
            train(store, tmp_path, seed=0)
    assert is_finished(tmp_path / "heatmap" / MEASURING)
    assert is_finished(tmp_path / "heatmap") == where.endswith("_measure")
    assert train(store, tmp_path)
    for stage in ("heatmap", ""):
        ours, theirs = weights(tmp_path / stage), weights(trained / stage)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_each_stage_starts_from_its_own_of_the_given_weights(
    store: Store, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = checkpoint_file(trained, "final")
    assert train(store, tmp_path / "fold_0", pretrained=given)
    starts = {"": given, "heatmap": tmp_path / "fold_0" / "heatmap" / MEASURING / given.name}
    starts[f"heatmap/{MEASURING}"] = trained / "heatmap" / given.name
    for place, file in starts.items():
        assert read_json(tmp_path / "fold_0" / place / "config.json", remedy="")["pretrained"]["file"] == str(file)
    alone = shutil.copy(given, tmp_path / "alone.safetensors")
    with caplog.at_level(logging.INFO):
        assert weights_before(Path(alone), "heatmap") is None
    assert "stage heatmap starts from fresh weights" in caplog.text


def test_windows_hold_what_a_poor_first_stage_misses_within_the_image(
    store: Store, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One epoch leaves misses that 16 pixels do not hold: the first look sees wider ones, up to the image's size. Where
    the stage before finds everything at one place far outside, training warns of the share that stays outside."""
    placement = Measured.load(trained).placement
    assert placement is not None
    first, last = placement.looks((1.0, 1.0), 2)
    extent = np.array(store.load(TRAIN[0]).geometry.extent)
    assert last == (1.0, 1.0) and first > (1.2, 1.2) and placement.side == (16, 16)
    assert (np.multiply(placement.side, first) <= extent + 1e-3).all()
    marks = store.load(TRAIN[0]).landmarks
    away = a_prediction(marks, np.full((len(NAMES), 1, 2), 3 * extent.max()), np.ones((len(NAMES), 1)))
    with caplog.at_level(logging.WARNING):
        measured = _measure(works(store)[1], TRAIN, VAL, lambda case: away)
    assert "100.0% of held-out errors lie outside" in caplog.text and "outside" in measured.why


def test_a_trained_chain_predicts_what_it_validated(store: Store, trained: Path, tmp_path: Path) -> None:
    stages = load_chain(works(store), trained, torch.device("cpu"))
    assert stages[1].configuration.patch_size == Measured.load(trained).placement.side  # type: ignore[union-attr]
    stored = store.load(VAL[0])
    images = [Prepared(stored.image(), stored.fill)] * 2
    found = look_through(stages, images)
    assert found.landmarks.names == NAMES and np.isfinite(found.candidates[:, 0]).all()
    again = validate_stages(works(store), VAL, trained, "final", tmp_path / "again", device="cpu")
    assert again["cases"] == len(VAL)
    table = (tmp_path / "again" / "landmarks.csv").read_text()
    assert table == (trained / "validation" / "landmarks.csv").read_text()


def test_a_model_folder_predicts_by_all_its_stages(store: Store, trained: Path, tmp_path: Path) -> None:
    """As one that training wrote, of one fold and of two alike."""
    stored, validated = store.load(VAL[0]), read_table(trained / "validation" / "landmarks.csv")
    image = Prepared(stored.image(), stored.fill)
    staged_plans().save(tmp_path / "plans.json")
    for fold in ("fold_0", "fold_1"):
        shutil.copytree(trained, tmp_path / fold)
    for folds in ([0], None):
        predictor = Model(tmp_path, TestTime(folds, device="cpu"))
        assert [stage.configuration.trainer for stage in predictor.stages] == ["heatmap", "fine"]
        assert set(predictor.digests) == {f"{fold}{stage}" for fold in predictor.folds for stage in ("", "/heatmap")}
        found = look_through(predictor.stages, [image, image]).landmarks
        assert np.allclose(found.points, validated[VAL[0]].points, atol=1e-4)
    coarse = Model(tmp_path, TestTime([0], device="cpu", stages=1))
    assert [stage.configuration.trainer for stage in coarse.stages] == ["heatmap"]
    assert look_through(coarse.stages, [image]).looks < look_through(predictor.stages, [image, image]).looks
    with pytest.raises(AutolmkError, match="not so many stages"):
        Model(tmp_path, TestTime([0], device="cpu", stages=3))


OWN = """
from autolmk.trainers.coarse_to_fine import FineTrainer
from autolmk.trainers.heatmap import HeatmapTrainer

class Coarse(HeatmapTrainer):
    pass

class Fine(FineTrainer):
    pass
"""


@pytest.mark.parametrize("own", [("heatmap",), ("fine",), ("heatmap", "fine")])
def test_any_mix_of_own_and_shipped_trainers_predicts(
    own: tuple[str, ...], store: Store, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    classes = {"heatmap": "Coarse", "fine": "Fine"}
    named = {stage: f"{tmp_path / 'mine.py'}:{classes[stage]}" if stage in own else stage for stage in classes}
    model = tmp_path / "model"
    shutil.copytree(trained, model / "fold_0")
    for stage, folder in (("heatmap", "fold_0/heatmap"), ("fine", "fold_0")):
        config = read_json(model / folder / "config.json")
        write_json(model / folder / "config.json", {**config, "trainer": named[stage]})
    staged_plans().save(model / "plans.json")
    keep_sources(named.values(), model)
    with pytest.raises(AutolmkError, match="--trust-code"):
        Model(model, TestTime(device="cpu"))
    stored = store.load(VAL[0])
    image = Prepared(stored.image(), stored.fill)
    stages = Model(model, TestTime(device="cpu", trust_code=True)).stages
    found = look_through(stages, [image, image]).landmarks
    assert np.allclose(found.points, read_table(trained / "validation" / "landmarks.csv")[VAL[0]].points, atol=1e-4)
    if "heatmap" in own:  # -tr names the last stage's trainer alone
        with pytest.raises(AutolmkError) as refused:
            Model(model, TestTime(device="cpu", trainer=named["fine"]))
        assert "--trust-code; -tr names the last stage's trainer alone" in str(refused.value)
    Model(model, TestTime(device="cpu", trainer=named["fine"], trust_code="heatmap" in own))


class Remembering:
    """A logger of a stage's folder."""

    def __init__(self, folder: Path, said: list[tuple[Path, str, int]]) -> None:
        self.folder, self.said = folder, said

    def begin(self, run: Mapping[str, Any]) -> None:
        assert run["folder"] == str(self.folder)
        self.said.append((self.folder, "begin", 0))

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.said.append((self.folder, "log", iteration))

    def end(self) -> None:
        self.said.append((self.folder, "end", 0))


def test_each_stage_has_loggers_of_its_own(store: Store, tmp_path: Path) -> None:
    said: list[tuple[Path, str, int]] = []
    assert train(store, tmp_path, loggers=lambda folder: [Remembering(folder, said)])
    folders = [tmp_path / "heatmap" / MEASURING, tmp_path / "heatmap", tmp_path]
    assert list(dict.fromkeys(folder for folder, _, _ in said)) == folders
    for folder in folders:
        kinds = [(kind, iteration) for place, kind, iteration in said if place == folder]
        assert kinds[0] == ("begin", 0) and kinds[-1] == ("end", 0) and kinds[1:-1] == sorted(kinds[1:-1]) != []


def test_looks_during_training_do_not_search(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched, settle = [], _Looks.settle

    def noted(self: _Looks, before: Prediction, *, search: bool) -> Seen:
        searched.append(search)
        return settle(self, before, search=search)

    monkeypatch.setattr(_Looks, "settle", noted)
    assert train(store, tmp_path, epochs=3)
    during, final = searched[: -len(VAL)], searched[-len(VAL) :]
    assert during and not any(during) and all(final)


def test_a_finished_chain_is_not_trained_again(store: Store, trained: Path) -> None:
    times = {file: file.stat().st_mtime_ns for file in trained.rglob("checkpoint_*")}
    assert train(store, trained)
    assert times == {file: file.stat().st_mtime_ns for file in trained.rglob("checkpoint_*")}


def test_a_stage_without_the_one_before_it_is_not_trained_on(store: Store, trained: Path, tmp_path: Path) -> None:
    """Its windows were placed by errors of a stage that is gone."""
    copy = tmp_path / "fold"
    shutil.copytree(trained, copy)
    (copy / "checkpoint_final.safetensors").unlink()
    shutil.rmtree(stage_folder(copy, "heatmap"))
    with pytest.raises(AutolmkError, match="another one that is gone"):
        train(store, copy)
    assert not stage_folder(copy, "heatmap").exists()


@pytest.mark.parametrize("place", ["heatmap/measuring", "heatmap", ""])
def test_a_stopped_stage_goes_on(
    store: Store, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Stopped within the first stage, in either part, or within the last one, it ends as an unbroken run does."""
    folder, step, steps = tmp_path / "fold_0", Loop._time_a_case, [0]
    stopping = folder / place

    def stop_once(loop: Loop) -> bool:
        if loop.work.folder == stopping:
            steps[0] += 1
            if steps[0] == 2:
                (stopping / "stop").touch()
        return step(loop)

    monkeypatch.setattr(Loop, "_time_a_case", stop_once)
    assert not train(store, folder)
    assert is_finished(folder / "heatmap") == (place == "") and not is_finished(folder)
    assert train(store, folder)
    for stage in ("heatmap", ""):
        ours, theirs = weights(folder / stage), weights(trained / stage)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert Measured.load(folder).placement == Measured.load(trained).placement


def train_all(store: Store, folder: Path, epochs: int, cases: list[str]) -> bool:
    subjects = {case: case for case in cases}
    return train_stages(
        works(store)[:1], cases, [], folder, subjects=subjects, device="cpu", seed=3, epochs=epochs, share=1.0
    )


def test_a_fold_without_held_out_cases_is_measured_first(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a part of its cases, and then goes on with all of them; what those that it had not seen told is kept. Not
    where numbered folds of the same plans tell, nor where a run without that was begun, nor of fewer cases."""
    cases = [*TRAIN, *VAL]
    assert train_all(store, tmp_path / "few" / "fold_all", 2, cases)
    assert not (tmp_path / "few" / "fold_all" / MEASURING).exists()
    monkeypatch.setattr("autolmk.training.stages.MEASURABLE", len(cases))
    assert train_all(store, tmp_path / "few" / "fold_all", 2, cases)
    assert not (tmp_path / "few" / "fold_all" / MEASURING).exists()
    fold = tmp_path / "model" / "fold_all"
    assert train_all(store, fold, 2, cases)
    config, inner = (read_json(place / "config.json", remedy="") for place in (fold, fold / MEASURING))
    assert sorted(config["train_cases"]) == sorted(cases) and not config["val_cases"]
    assert inner["val_cases"] and set(inner["train_cases"]) | set(inner["val_cases"]) == set(cases)
    told, kept = Measured.load(fold / MEASURING), Measured.load(fold)
    assert kept.presence_cases == told.presence_cases == len(inner["val_cases"]) and kept.errors == told.errors
    assert kept.rows == told.rows and kept.rows is not None
    final = checkpoint_file(fold, "final").read_bytes()
    assert train_all(store, fold, 2, cases) and checkpoint_file(fold, "final").read_bytes() == final
    shutil.copytree(fold / MEASURING, tmp_path / "told" / "fold_0")
    assert train_all(store, tmp_path / "told" / "fold_all", 2, cases)
    assert not (tmp_path / "told" / "fold_all" / MEASURING).exists()
    assert Measured.load(tmp_path / "told" / "fold_all").errors is not None


def test_annotations_of_held_out_cases_move_no_training_window(trained: Path, tmp_path: Path) -> None:
    """Whatever stands in them, both stages' weights, and where the windows lie, are the same to the last bit."""
    altered = write_store(tmp_path / "store", staged_plans())
    move(altered, VAL[0], shifted)
    absent = np.full(len(NAMES), Status.ABSENT, dtype=np.int8)
    move(altered, VAL[1], lambda marks: Landmarks(marks.names, np.full((len(NAMES), 2), np.nan), absent))
    assert train(altered, tmp_path / "fold_0")
    for stage in ("heatmap", ""):
        ours, theirs = weights(tmp_path / "fold_0" / stage), weights(trained / stage)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    ours, theirs = Measured.load(tmp_path / "fold_0"), Measured.load(trained)
    assert (ours.placement, ours.mean_shape) == (theirs.placement, theirs.mean_shape)


def test_annotations_of_training_cases_do(trained: Path, tmp_path: Path) -> None:
    altered = write_store(tmp_path / "store", staged_plans())
    _, held_out = hold_out(TRAIN, {case: case for case in TRAIN})
    move(altered, held_out[0], shifted)
    assert train(altered, tmp_path / "fold_0")
    assert Measured.load(tmp_path / "fold_0").placement != Measured.load(trained).placement


def test_cases_are_set_aside_by_whole_subjects() -> None:
    cases = [f"case{i:02d}" for i in range(40)]
    inner, held_out = hold_out(cases, {case: case for case in cases})
    assert len(held_out) == 8 and sorted(inner + held_out) == cases
    assert hold_out(cases[::-1], {case: case for case in cases}) == (inner, held_out)
    of_two = {case: case[:-1] + str(int(case[-1]) // 2) for case in cases}
    inner, held_out = hold_out(cases, of_two)
    assert not {of_two[c] for c in inner} & {of_two[c] for c in held_out} and len(held_out) == 8
    assert [len(part) for part in hold_out(cases[:6], {c: c for c in cases})] == [4, 2]  # not more than a third
    assert [len(part) for part in hold_out(cases[:2], {c: c for c in cases})] == [1, 1]
    with pytest.raises(AutolmkError, match="has not seen"):
        hold_out(cases, dict.fromkeys(cases, "one"))


@pytest.mark.parametrize(
    "sizes", [[15, 1, 1, 1, 1, 1], [1, 15, 1, 1, 1, 1], [40, *[1] * 40], [19, 1], [1, 19], [6, 6, 6], [2, 30]]
)
def test_a_subject_of_many_cases_leaves_enough_to_train_on(sizes: list[int]) -> None:
    for turn in range(len(sizes)):
        turned = sizes[turn:] + sizes[:turn]
        subjects = {f"s{i:02d}_{j}": f"s{i:02d}" for i, n in enumerate(turned) for j in range(n)}
        inner, held_out = hold_out(list(subjects), subjects)
        assert held_out and len(inner) >= 0.5 * len(subjects), (turned, len(inner))
        assert not {subjects[c] for c in inner} & {subjects[c] for c in held_out}


def test_changed_splits_are_refused_by_a_run_and_by_validation(store: Store, trained: Path, tmp_path: Path) -> None:
    fold = tmp_path / "fold_0"
    shutil.copytree(trained, fold)
    subjects = {case: case for case in [*TRAIN, *VAL]}
    turned = [*TRAIN[1:], VAL[0]], [TRAIN[0], *VAL[1:]]
    with pytest.raises(AutolmkError, match="begun with other cases"):
        train_stages(works(store), *turned, fold, subjects=subjects, device="cpu")
    with pytest.raises(AutolmkError, match="trained on cases that are to be validated"):
        validate_stages(works(store), turned[1], fold, "final", tmp_path / "v", device="cpu")
    assert not (tmp_path / "v").exists()
    only_val = [*TRAIN], [VAL[0]]  # one case less is held out
    with pytest.raises(AutolmkError, match=f"val_cases differ by {VAL[1]}"):
        train_stages(works(store), *only_val, fold, subjects=subjects, device="cpu")


def stopped_in(store: Store, folder: Path, place: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Train until the second step of the stage in `place`, "" for the last one."""
    step, steps = Loop._time_a_case, [0]

    def stop_once(loop: Loop) -> bool:
        if loop.work.folder == folder / place:
            steps[0] += 1
            if steps[0] == 2:
                (folder / "stop").touch()
        return step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_time_a_case", stop_once)
        assert not train(store, folder, **settings)
    assert not (folder / "stop").exists()


def test_a_stop_in_the_folds_folder_stops_its_first_stage(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_in(store, tmp_path / "fold_0", "heatmap", monkeypatch)
    assert not is_finished(tmp_path / "fold_0" / "heatmap")


def test_finish_ends_the_stage_under_way_alone(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, step = tmp_path / "fold_0", Loop._time_a_case
    folder.mkdir()

    def finish_once(loop: Loop) -> bool:
        if loop.work.folder == folder / "heatmap" and loop.run.iteration == 2:
            (folder / "finish").touch()
        return step(loop)

    monkeypatch.setattr(Loop, "_time_a_case", finish_once)
    assert train(store, folder)
    steps = {place: read_log(folder / place)[-1]["iteration"] for place in ("heatmap", "")}
    assert steps["heatmap"] == 2 < steps[""]
    assert not (folder / "finish").exists()


def test_a_stage_under_way_may_get_another_length_and_keeps_the_seed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "fold_0"
    stopped_in(store, folder, "heatmap", monkeypatch, seed=7)
    assert train(store, folder, max_seconds=None)
    assert {read_json(folder / place / "config.json")["seed"] for place in ("heatmap", "")} == {7}
    other = tmp_path / "fold_1"
    stopped_in(store, other, "", monkeypatch)
    assert train(store, other, epochs=2)
    lengths = [read_json(other / place / "config.json")["iterations"] for place in ("heatmap", "")]
    assert lengths[1] == 2 * lengths[0]


def test_other_bounds_of_windows_than_at_first_are_refused(store: Store, trained: Path) -> None:
    for change in ({"sigma": (5.0, 5.0)}, {"patch_size": (12, 12)}):
        first, last = works(store)
        configuration = dataclasses.replace(last.trainer.configuration, **change)  # type: ignore[arg-type]
        altered = dataclasses.replace(last, trainer=FineTrainer(last.trainer.plans, configuration))
        with pytest.raises(AutolmkError, match=f"{next(iter(change))} was"):
            train_stages([first, altered], TRAIN, VAL, trained, subjects={c: c for c in [*TRAIN, *VAL]}, device="cpu")


def test_a_damaged_earlier_stage_is_told_before_the_next_one_trains(
    store: Store, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "fold_0"
    stopped_in(store, folder, "", monkeypatch)
    file = folder / "heatmap" / "checkpoint_final.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    iteration = read_log(folder)
    with pytest.raises(AutolmkError, match="heatmap"):
        train(store, folder)
    assert read_log(folder) == iteration


def test_validating_a_last_stage_that_has_not_begun_is_said_plainly(store: Store, tmp_path: Path) -> None:
    with pytest.raises(AutolmkError, match="checkpoint_final"):
        validate_stages(works(store), VAL, tmp_path / "fold_0", "final", tmp_path / "v", device="cpu")


def test_stages_share_the_time_as_planned() -> None:
    plans = staged_plans()
    timed = [
        dataclasses.replace(c, schedule=dataclasses.replace(c.schedule, max_seconds=seconds))
        for c, seconds in zip(plans.configurations.values(), (300.0, 100.0), strict=True)
    ]
    assert shares(timed, 40.0) == [30.0, 10.0]
    longer = dataclasses.replace(timed[0].schedule, max_seconds=None, epochs=4)
    assert shares([dataclasses.replace(timed[0], schedule=longer), timed[1]], 50.0) == [40.0, 10.0]
