"""Evaluation: figures checked by hand, intervals by simulation, and the command on files."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from autolmk.annotations import Annotation
from autolmk.cli.evaluate import main, table
from autolmk.errors import AutolmkError
from autolmk.evaluation import Evaluation, bootstrap, evaluate
from autolmk.evaluation.bootstrap import Resamples, means, median, medians, resample_cases, shares
from autolmk.landmarks import Landmarks, Status

P, A, U = Status.PRESENT, Status.ABSENT, Status.UNKNOWN
NAMES = ("Eye_L", "Eye_R", "Nose")
TRUTH_POINTS = np.array([[10.0, 0, 0], [-10.0, 0, 0], [0, 20.0, 0]])


def truth(*statuses: tuple[Status, Status, Status]) -> dict[str, Landmarks]:
    return {f"case{i}": Landmarks(NAMES, TRUTH_POINTS, np.array(s)) for i, s in enumerate(statuses)}


def predicted(points: object, status: object = (P, P, P), likelihood: object = (0.9, 0.9, 0.9)) -> Annotation:
    points = np.asarray(points, dtype=float)
    return Annotation(NAMES, points, np.array(status), "LPS", np.array(likelihood, dtype=float))


@pytest.fixture(scope="module")
def result() -> Evaluation:
    """case0: errors 1, 2.5, 5. case1: eyes swapped, a present nose, 3 off, called absent. case2: 2 off, nose absent."""
    annotated = truth((P, P, P), (P, P, P), (P, U, A))
    predictions = {
        "case0": predicted(TRUTH_POINTS + np.array([[1, 0, 0], [0, 2.5, 0], [3, 0, 4]])),
        "case1": predicted(
            TRUTH_POINTS[[1, 0, 2]] + np.array([[0, 0, 0], [0, 0, 0], [0, 0, 3]]), (P, P, A), (0.9, 0.8, 0.4)
        ),
        "case2": predicted(TRUTH_POINTS + np.array([0, 0, 2]), (P, P, A), (0.7, 0.6, 0.1)),
        "case9": predicted(TRUTH_POINTS),
    }
    return evaluate(annotated, predictions, pairs=[("Eye_L", "Eye_R")], radii=(2.5, 4, 2), n_resamples=200)


def test_errors_count_every_present_point_even_if_predicted_absent(result: Evaluation) -> None:
    errors = [1, 2.5, 5, 20, 20, 3, 2]
    assert result.overall.n == 7
    assert result.overall.mre.value == pytest.approx(np.mean(errors))
    assert result.overall.sd == pytest.approx(np.std(errors, ddof=1))
    assert result.overall.median.value == pytest.approx(3.0)
    assert {r: s.value for r, s in result.overall.sdr.items()} == pytest.approx({"2": 2 / 7, "2.5": 3 / 7, "4": 4 / 7})
    nose = result.landmarks["Nose"]
    assert nose.n == 2 and nose.mre.value == pytest.approx(4.0) and nose.median.value == pytest.approx(4.0)


def test_swaps_and_presence(result: Evaluation) -> None:
    assert (result.overall.swaps, result.overall.n_swappable) == (2, 4)
    assert (result.landmarks["Nose"].swaps, result.landmarks["Nose"].n_swappable) == (0, 0)
    presence = result.overall.presence
    counts = (presence.true_present, presence.missed, presence.false_present, presence.true_absent)
    assert counts == (6, 1, 0, 1)
    assert presence.accuracy == 7 / 8 and presence.sensitivity == 6 / 7 and presence.specificity == 1.0
    assert presence.auc == 1.0 and result.landmarks["Eye_L"].presence.auc is None


def test_points_are_listed_with_unknown_left_out(result: Evaluation) -> None:
    listed = {(p.case, p.landmark): p for p in result.points}
    assert len(listed) == 8 and ("case2", "Eye_R") not in listed
    assert listed["case1", "Eye_L"].swapped and listed["case1", "Nose"].predicted_status == "absent"
    assert listed["case2", "Nose"].error is None


def test_a_missing_position_is_a_failure_not_a_gap() -> None:
    points = TRUTH_POINTS.copy()
    points[2] = np.nan
    found = evaluate(truth((P, P, P)), {"case0": predicted(points, (P, P, A))}, n_resamples=100).overall
    box = float(np.hypot(20, 20))  # around all true points
    assert (found.n, found.missing) == (3, 1)
    assert found.mre.value == pytest.approx(box / 3) and found.median.value == 0.0
    assert found.sdr["8"].value == pytest.approx(2 / 3)
    unlisted = Annotation(NAMES[:2], TRUTH_POINTS[:2], np.array([P, P]), "LPS")
    again = evaluate(truth((P, P, P)), {"case0": unlisted}, n_resamples=100).overall
    assert again.sdr["8"].value == pytest.approx(2 / 3) and again.presence.missed == 1
    known = evaluate(truth((P, P, P)), {"case0": unlisted}, diagonals={"case0": 300.0}, n_resamples=100)
    assert known.overall.mre.value == pytest.approx(100.0) and known.penalty == {"case0": 300.0}
    nose = next(p for p in known.points if p.landmark == "Nose")
    assert nose.missing and nose.error == 300.0
    assert "missing: 1 points have no predicted place; each counts as 300.0 mm" in table(known)


def test_leaving_points_out_never_helps() -> None:
    rng = np.random.default_rng(5)
    annotated = truth(*[(P, P, P)] * 4)
    points = {case: TRUTH_POINTS + rng.normal(0, 3, (3, 3)) for case in annotated}
    before = evaluate(annotated, {c: predicted(p) for c, p in points.items()}, n_resamples=100).overall
    for case in ("case0", "case2"):
        points[case][1] = np.nan
    after = evaluate(annotated, {c: predicted(p) for c, p in points.items()}, n_resamples=100).overall
    assert after.mre.value > before.mre.value and after.missing == 2
    one = {"case0": Landmarks(NAMES, TRUTH_POINTS, np.array([P, A, A]))}
    alone = evaluate(one, {"case0": predicted(TRUTH_POINTS * np.nan)}, n_resamples=100).overall
    assert alone.mre.value == 16.0 and alone.sdr["8"].value == 0.0  # no box to speak of: twice the largest radius


def test_tied_likelihoods_count_half_in_the_auc() -> None:
    rng = np.random.default_rng(4)
    statuses, predictions = [], {}
    for i in range(20):
        statuses.append(tuple(rng.choice([P, A], 3)))
        predictions[f"case{i}"] = predicted(TRUTH_POINTS, likelihood=rng.integers(1, 5, 3) / 5)
    found = evaluate(truth(*statuses), predictions, n_resamples=100).overall.presence.auc
    scores = np.concatenate([predictions[f"case{i}"].likelihood for i in range(20)])
    present = np.array(statuses).ravel() == P
    u = stats.mannwhitneyu(scores[present], scores[~present]).statistic
    assert found == pytest.approx(u / (present.sum() * (~present).sum()))


def test_same_seed_same_intervals_and_they_hold_the_value() -> None:
    rng = np.random.default_rng(0)
    annotated = truth(*[(P, P, P)] * 12)
    predictions = {case: predicted(TRUTH_POINTS + rng.normal(0, 2, (3, 3))) for case in annotated}
    first, second = (evaluate(annotated, predictions, seed=3, n_resamples=300) for _ in range(2))
    assert first == second
    for estimate in (first.overall.mre, first.overall.median, first.overall.sdr["4"], first.landmarks["Nose"].mre):
        assert estimate.low is not None and estimate.low < estimate.value < estimate.high
    assert evaluate(annotated, predictions, seed=4, n_resamples=300).overall.mre != first.overall.mre


def test_intervals_cover_skewed_errors_that_hang_together_in_cases() -> None:
    """200 studies of 15 cases, lognormal case effect 0.5: the interval of the mean covers in at least 90 %, of the
    median too. A bootstrap over points covers about 65 %."""
    rng = np.random.default_rng(1)

    def study(n: int) -> np.ndarray:
        return rng.lognormal(0, 0.5, (n, 1)) * rng.lognormal(0, 0.3, (n, 6))

    many = study(200_000)
    covered = np.zeros(2)
    for seed in range(200):
        errors = study(15)
        draws = resample_cases(15, 400, seed)
        (mean,) = means(errors.sum(1, keepdims=True), np.full((15, 1), 6.0), draws)
        middle = median(list(errors), draws)
        covered += [mean.low <= many.mean() <= mean.high, middle.low <= np.median(many) <= middle.high]
    assert (covered / 200 >= 0.9).all()


def test_weighted_median_equals_the_median_of_the_resampled_points() -> None:
    rng = np.random.default_rng(2)
    errors = [rng.exponential(size=rng.integers(0, 5)) for _ in range(9)]
    draws = resample_cases(9, 50, 0)
    order = np.argsort(np.concatenate(errors))
    owner = np.repeat(np.arange(9), [len(e) for e in errors])[order]
    values, _ = bootstrap._median(np.concatenate(errors)[order], owner, bootstrap._padded(errors), draws)
    for row, value in zip(draws.astype(int), values, strict=True):
        assert value == pytest.approx(
            np.median(np.concatenate([e for e, n in zip(errors, row, strict=True) for _ in range(n)]))
        )


def test_all_within_the_radius_still_has_an_honest_lower_bound() -> None:
    (estimate,) = shares(np.full((15, 1), 4.0), np.full((15, 1), 4.0))
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.025 ** (1 / 15))
    (none,) = shares(np.zeros((15, 1)), np.full((15, 1), 4.0))
    assert (none.value, none.low) == (0.0, 0.0) and none.high == pytest.approx(1 - 0.025 ** (1 / 15))


def test_one_point_a_case_is_a_plain_binomial() -> None:
    (estimate,) = shares(np.array([[1.0]] * 12 + [[0.0]] * 3), np.ones((15, 1)))
    exact = stats.binomtest(12, 15).proportion_ci(0.95, "exact")
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high))


def test_cases_that_are_all_alike_do_not_make_a_share_certain() -> None:
    (alike,) = shares(np.full((6, 1), 3.0), np.full((6, 1), 4.0))
    assert alike.value == 0.75 and alike.low < 0.55 and alike.high > 0.9
    all_or_none = np.array([[4.0], [4.0], [4.0], [4.0], [0.0], [2.0]])
    (apart,) = shares(all_or_none, np.full((6, 1), 4.0))
    assert apart.value == 0.75 and apart.low < alike.low and apart.high > alike.high


@pytest.mark.parametrize("n_cases", [5, 8, 15, 40])
@pytest.mark.parametrize("points", [1, 12])
@pytest.mark.parametrize("true", [0.6, 0.9, 0.97])
def test_intervals_of_shares_cover(n_cases: int, points: int, true: float) -> None:
    """4000 studies, points of a case correlated by 0 and by 0.2. With 20,000 a setting the least coverage is 93 %
    (40 cases, 12 points, 97 %); the bound is 2.5 standard errors of 4000 studies below it."""
    rng = np.random.default_rng(n_cases)
    counts = np.full((n_cases, 4000), float(points))
    for together in (0.0, 0.2):
        of_case = np.full(counts.shape, true)
        if together:
            total = 1 / together - 1
            of_case = rng.beta(true * total, (1 - true) * total, counts.shape)
        estimates = shares(rng.binomial(points, of_case).astype(float), counts)
        assert np.mean([e.low <= true <= e.high for e in estimates]) >= 0.92


def test_too_few_cases_have_no_interval() -> None:
    def found(n: int) -> Evaluation:
        cases = truth(*[(P, P, P)] * n)
        return evaluate(cases, {case: predicted(TRUTH_POINTS + i + 1) for i, case in enumerate(cases)})

    four, five = found(4), found(5)
    for estimate in (four.overall.mre, four.overall.median, four.overall.sdr["4"], four.landmarks["Nose"].sdr["8"]):
        assert estimate.value is not None and estimate.low is None and estimate.high is None
    assert five.overall.mre.low is not None and five.overall.sdr["4"].low is not None
    assert f"{four.overall.mre.value:.2f} [-]" in table(four) and "[-]" not in table(five)


def test_refusals() -> None:
    with pytest.raises(AutolmkError, match="no annotated case"):
        evaluate({}, {})
    with pytest.raises(AutolmkError, match="1 of 2 annotated cases were not predicted"):
        evaluate(truth((P, P, P), (P, P, P)), {"case0": predicted(TRUTH_POINTS)})
    with pytest.raises(AutolmkError, match="shares no landmark name"):
        evaluate(truth((P, P, P)), {"case0": Annotation(("Ear",), np.zeros((1, 3)), np.array([P]), "LPS")})


# -- the command -------------------------------------------------------------------------------------------------------


def write_table(
    file: Path, cases: int, noise: float, columns: str = "case,landmark,x,y,z,status,likelihood,log_odds"
) -> None:
    rng = np.random.default_rng(0)
    lines = [columns]
    for i in range(cases):
        for name, point in zip(NAMES, TRUTH_POINTS, strict=True):
            xyz = ",".join(f"{x + noise * rng.normal():.6f}" for x in point)
            lines.append(f"case{i},{name},{xyz},present" + ",0.9,3.1" * ("likelihood" in columns))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def test_command_on_tables_writes_json_csv_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(tmp_path / "predictions" / "landmarks.csv", 5, 1.0)
    write_table(tmp_path / "truth.csv", 5, 0.0, "case,landmark,x,y,z,status")
    assert main([str(tmp_path / "predictions"), str(tmp_path / "truth.csv"), "--radii", "1", "3.5"]) == 0
    said = capsys.readouterr().out
    assert "MRE mm" in said and "SDR 3.5 mm" in said and "overall" in said and "swaps: 0 of 10" in said
    output = tmp_path / "predictions" / "evaluation"
    summary = json.loads((output / "summary.json").read_text())
    assert set(summary["overall"]["sdr"]) == {"1", "3.5"} and summary["n_cases"] == 5
    with (output / "points.csv").open() as stream:
        errors = [float(row["error"]) for row in csv.DictReader(stream)]
    assert np.mean(errors) == pytest.approx(summary["overall"]["mre"]["value"])
    with (output / "summary.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["landmark"] for row in rows] == [*NAMES, "overall"]
    assert float(rows[-1]["mre"]) == pytest.approx(np.mean(errors))


def test_command_names_missing_cases_and_what_is_unclear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(tmp_path / "predictions" / "landmarks.csv", 2, 1.0)
    write_table(tmp_path / "truth.csv", 3, 0.0, "case,landmark,x,y,z,status")
    arguments = ["-i", str(tmp_path / "predictions"), "--truth", str(tmp_path / "truth.csv")]
    assert main(arguments) == 2
    assert "case2" in capsys.readouterr().err
    assert not (tmp_path / "predictions" / "evaluation").exists()
    assert main([*arguments, "--skip-missing"]) == 0
    assert "annotated but not predicted, left out: case2\n" in capsys.readouterr().err
    write_table(tmp_path / "predictions" / "landmarks.csv", 3, 1.0)
    assert main([*arguments, "--skip-missing"]) == 0
    assert "left out" not in capsys.readouterr().err
    assert main(["-i", str(tmp_path / "predictions")]) == 2
    assert "autolmk_evaluate DATASET PREDICTIONS" in capsys.readouterr().err


def test_table_of_pixels_says_so() -> None:
    found = evaluate(truth((P, P, P)), {"case0": predicted(TRUTH_POINTS)}, unit="px", n_resamples=100)
    assert "no physical size" in table(found) and "MRE px" in table(found)


def test_the_unit_of_bare_files_is_that_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(tmp_path / "predictions" / "landmarks.csv", 3, 1.0)
    write_table(tmp_path / "truth.csv", 3, 0.0, "case,landmark,x,y,z,status")
    (tmp_path / "predictions" / "run.json").write_text('{"unit": "px"}')
    arguments = [str(tmp_path / "predictions"), str(tmp_path / "truth.csv")]
    assert main(arguments) == 0 and "MRE px" in capsys.readouterr().out
    assert main([*arguments, "--unit", "mm"]) == 0 and "MRE mm" in capsys.readouterr().out


def test_command_on_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Truth through the dataset's own frame: annotations in RAS, predictions in LPS."""
    from autolmk.geometry import Geometry
    from autolmk.image import Image
    from autolmk.imageio import write_image

    raw = tmp_path / "raw" / "Dataset007_Faces"
    geometry = Geometry.from_parts((8, 16, 16), (4.0, 4.0, 4.0), (-30.0, -20.0, -10.0))
    for split, case in (("Tr", "case9"), ("Ts", "case0")):
        (raw / f"images{split}").mkdir(parents=True)
        image = Image(np.zeros((1, 8, 16, 16), dtype=np.float32), geometry)
        write_image(raw / f"images{split}" / f"{case}_0000.nii.gz", image)
        rows = [f"{case},{n},{-p[0]},{-p[1]},{p[2]},present" for n, p in zip(NAMES, TRUTH_POINTS, strict=True)]
        (raw / f"landmarks{split}").mkdir()
        (raw / f"landmarks{split}" / "landmarks.csv").write_text(
            "\n".join(["case,landmark,x,y,z,status", *rows]) + "\n"
        )
    landmarks = {n: {"index": i} for i, n in enumerate(NAMES)}
    description = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 1, "coordinates": "RAS"}
    (raw / "dataset.json").write_text(json.dumps(description | {"landmarks": landmarks}))
    write_table(tmp_path / "predictions" / "landmarks.csv", 1, 0.0)
    arguments = ["-i", str(tmp_path / "predictions"), "-d", "7", "--raw", str(tmp_path / "raw")]
    assert main(arguments) == 0
    assert "swaps: 0 of 2" in capsys.readouterr().out
    summary = json.loads((tmp_path / "predictions" / "evaluation" / "summary.json").read_text())
    assert summary["overall"]["mre"]["value"] == pytest.approx(0.0, abs=1e-9)
    table = raw / "landmarksTs" / "landmarks.csv"
    table.write_text(table.read_text() + f"case77,{NAMES[0]},1,2,3,present\n")
    assert main(arguments) == 2
    assert "1 annotated cases have no image" in (said := capsys.readouterr().err) and "case77" in said


def test_memory_of_intervals_does_not_grow_with_resamples() -> None:
    """Some numbers a case, whatever the number of resamples."""
    peaks = []
    for n in (2000, 8000):
        errors = list(np.random.default_rng(0).gamma(2.0, 1.0, (n, 4)))
        tracemalloc.start()
        draws = Resamples(n, 1000, 0)
        medians([errors, errors], draws)
        means(np.array([[e.sum()] for e in errors]), np.full((n, 1), 4.0), draws)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 6000 * 1000


def test_intervals_are_the_same_whether_draws_are_held_or_not() -> None:
    errors = list(np.random.default_rng(0).gamma(2.0, 1.0, (20, 3)))
    sums, counts = np.array([[e.sum()] for e in errors]), np.full((20, 1), 3.0)
    held, streamed = resample_cases(20, 300, 7), Resamples(20, 300, 7)
    assert means(sums, counts, held) == means(sums, counts, streamed)
    shorter = [e[:2] for e in errors]
    assert medians([errors, shorter], streamed) == [median(errors, held), median(shorter, held)]


def test_draws_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resample_cases(20, 300, 7)
    monkeypatch.setattr(bootstrap, "CHUNK", 100)
    np.testing.assert_array_equal(resample_cases(20, 300, 7), whole)
    assert (whole.sum(axis=1) == 20).all()
    expected = np.random.default_rng(7).multinomial(20, np.full(20, 1 / 20), size=300)
    np.testing.assert_array_equal(whole, expected)
