"""The report says what the files say, says what is missing, names what is damaged, and escapes everything."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_data import ReportData, write_report_data

from autolmk.annotations import read
from autolmk.cli.report import main
from autolmk.files.serialization import read_json, write_json
from autolmk.report.charts import Axis, ChartRow, Series, axis, lines, whiskers
from autolmk.report.pictures import png

TITLES = (
    "What was chosen, and why",
    "Accuracy",
    "Calibration",
    "Measurements",
    "What to look at first",
    "Worst cases",
    "Suspected annotation errors",
    "The dataset",
    "Plans and their reasons",
    "Learning curves",
    "Reproducibility",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return write_report_data(tmp_path_factory.mktemp("report"), ndim=2)


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    assert main([data.name, *data.arguments]) == 0
    return (data.results / "report.html").read_text()


@pytest.fixture
def copy(data: ReportData, tmp_path: Path) -> ReportData:
    """For tests that change files; raw data is shared."""
    for name in ("preprocessed", "results"):
        shutil.copytree(getattr(data.folders, name).path, tmp_path / name)
    from autolmk.paths import folders

    return ReportData(folders(data.folders.raw.path, tmp_path / "preprocessed", tmp_path / "results"), data.name)


class Reader(HTMLParser):
    """Text, tags and attributes; fails where tags do not nest."""

    EMPTY = ("meta", "link", "br", "wbr", "image")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.open = "", [], []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}>"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_all_sections_are_there_with_their_figures(data: ReportData, page: str) -> None:
    found = Reader(page)
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert len(titles) == len(TITLES) and all(t.startswith(title) for t, title in zip(titles, TITLES, strict=True))
    assert 'class="missing"' not in page
    summary = read_json(data.results / "best" / "crossval" / "summary.json")["overall"]
    assert f"{summary['mre']['value']:.3g}" in found.text
    chosen = "heatmap + global_to_local"
    for said in (chosen, "within radius", "ROC of presence", "eyes by ears", "0.003", "Pituitary"):
        assert said in found.text
    assert "__" not in found.text  # no folder's name
    assert len(page) < 15e6


def test_one_quantity_has_one_interval(copy: ReportData) -> None:
    """Also where the record of the choice has drawn its own."""
    file = copy.results / "best" / "inference_information.json"
    content = read_json(file)
    mre = content["candidates"][content["chosen"]]["mre"]
    content["candidates"][content["chosen"]]["mre"] = {**mre, "low": 0.0123, "high": 98.7}
    write_json(file, content)
    assert main([copy.name, *copy.arguments]) == 0
    text = Reader((copy.results / "report.html").read_text()).text
    said = re.findall(rf"{mre['value']:.3g}\s*\[(.*?)\]", text)
    assert len(said) >= 3 and len(set(said)) == 1


def test_intervals_of_means_are_left_out_with_few_cases(data: ReportData, page: str) -> None:
    """15 held-out cases tell one, 6 test cases do not; shares keep theirs."""
    section = page[page.index('<section id="accuracy"') : page.index('<section id="reliability"')]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)]
    held_out, test = (next(row for row in rows if row and row[0] == f"{name} cases") for name in ("held-out", "test"))
    assert ["[" in cell for cell in held_out[3:5]] == [True, True]
    assert ["[" in cell for cell in test[3:5]] == [False, False]
    assert all("[" in cell for cell in next(row for row in rows if row and row[0].startswith("2 "))[1:])


def test_cases_unlike_the_training_images_and_flagged_points_are_listed(data: ReportData, page: str) -> None:
    section = page[page.index('<section id="review"') : page.index('<section id="worst"')]
    assert "1 of 6 predicted cases lies outside the range" in section and "in training at most 1 mm" in section
    assert section.count("<tr>") == 4 and "unlikely shape" in section  # two heads, a case, a point


def test_predictions_within_the_range_are_said_to_be_so(copy: ReportData) -> None:
    file = copy.results / "predictions" / "imagesTs" / "review.csv"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    assert main([copy.name, *copy.arguments]) == 0
    page = (copy.results / "report.html").read_text()
    assert "All 6 predicted cases lie within the range" in page and "No predicted point is flagged" in page
    file.unlink()
    assert main([copy.name, *copy.arguments]) == 0
    assert "The predictions have no review.csv" in (copy.results / "report.html").read_text()


def test_nothing_is_fetched_and_no_script_runs(page: str) -> None:
    found = Reader(page)
    assert "script" not in found.tags and "iframe" not in found.tags
    for name, value in found.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith(("#", "data:")), value
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in page


def test_pictures_and_charts_have_alternative_texts(page: str) -> None:
    charts = re.findall(r'<svg class="(?:chart|picture)"[^>]*>', page)
    assert len(charts) > 20
    assert all(re.search(r'role="img" aria-label="[^"]{10,}"', chart) for chart in charts)


def test_the_planted_annotation_error_is_found_and_written_for_slicer(data: ReportData, page: str) -> None:
    (file,) = (data.results / "suspected_annotation_errors").glob("*.mrk.json")
    assert file.name == "phantom_002.mrk.json"
    assert read(file).names == ("Pituitary (annotation)", "Pituitary (model)")
    section = page[page.index('<section id="suspected"') : page.index('<section id="data"')]
    assert "1 suspected, by 2 models" in section and section.count("data:image/png") == 1


def test_names_from_files_are_escaped(copy: ReportData) -> None:
    """Of landmarks, cases, candidates and reasons: all that files hold."""
    evil = '<script>document.title="x"</script>"&'
    known = copy.results / "best" / "inference_information.json"
    content = read_json(known)
    content["candidates"][evil] = content["candidates"]["heatmap__autolmkPlans__heatmap"]
    write_json(known, {**content, "chosen": evil, "why": evil})
    for file in copy.results.rglob("*"):
        if file.suffix in (".csv", ".json") and file.name != known.name:
            csv_evil, json_evil = '"' + evil.replace('"', '""') + '"', evil.replace('"', '\\"')
            text = file.read_text()
            text = (
                text.replace(",Crown,", f",{csv_evil},") if file.suffix == ".csv" else text.replace("Crown", json_evil)
            )
            file.write_text(text)
    file = copy.folders.preprocessed / copy.name / "dataset_fingerprint.json"
    file.write_text(file.read_text().replace("Crown", evil.replace('"', '\\"')))
    assert main([copy.name, *copy.arguments]) == 0
    page = (copy.results / "report.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") > 5
    Reader(page)


def test_what_is_missing_is_said_and_how_to_get_it(copy: ReportData, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy.results / "best")
    shutil.rmtree(copy.results / "predictions")
    assert main(["-d", "2", *copy.arguments]) == 0
    page = (copy.results / "report.html").read_text()
    missing = re.findall(r'<p class="missing">(.*?)</p>', page)
    for command in ("autolmk_find_best_configuration", "autolmk_predict"):
        assert any(command in text for text in missing)
    assert "global_to_local, the trained model that errs least" in page
    shutil.rmtree(copy.results)
    assert main(["-d", "2", *copy.arguments, "-o", str(copy.results.parent / "empty.html")]) == 0
    page = (copy.results.parent / "empty.html").read_text()
    assert len(re.findall(r'<p class="missing">', page)) >= 6 and "autolmk_train" in page
    assert "empty.html" in capsys.readouterr().out


def test_one_model_alone(copy: ReportData) -> None:
    """-m takes a single model's folder too."""
    model = copy.results / "heatmap__autolmkPlans__heatmap"
    assert main([copy.name, *copy.arguments, "-m", str(model)]) == 0
    page = (copy.results / "report.html").read_text()
    assert ">heatmap, one stage<" in page and "global_to_local" not in page
    assert main([copy.name, *copy.arguments, "-m", str(copy.results)]) == 2


@pytest.mark.parametrize(
    "place",
    [
        "best/inference_information.json",
        "best/crossval/summary.json",
        "best/crossval/points.csv",
        "predictions/imagesTs/evaluation/summary.json",
        "predictions/imagesTs/measurements.csv",
        "predictions/imagesTs/review.csv",
        "heatmap__autolmkPlans__heatmap/fold_1/training_log.jsonl",
        "heatmap__autolmkPlans__heatmap/fold_1/validation/detections/phantom_001.json",
        "heatmap__autolmkPlans__heatmap/plans.json",
    ],
)
def test_damage_is_named(copy: ReportData, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = copy.results / place
    lines = file.read_text().splitlines()
    file.write_text("\n".join(["case,landmark" if file.suffix == ".csv" else "{broken", *lines[1:]]))
    assert main([copy.name, *copy.arguments]) == 2
    assert str(file) in capsys.readouterr().err


def test_without_the_raw_dataset_there_are_no_pictures(copy: ReportData) -> None:
    arguments = [*copy.arguments, "--raw", str(copy.results / "nowhere")]
    assert main([copy.name, *arguments]) == 0
    page = (copy.results / "report.html").read_text()
    assert "Pictures need the images" in page and "data:image/png" not in page


def test_png_is_what_readers_read(tmp_path: Path) -> None:
    import matplotlib.image

    grey = np.random.default_rng(0).integers(0, 256, size=(7, 11), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png(grey))
    np.testing.assert_array_equal(np.round(matplotlib.image.imread(tmp_path / "a.png") * 255), grey)


def test_axes() -> None:
    assert Axis("", 0, 100).ticks() == [0, 20, 40, 60, 80, 100]
    assert Axis("", 0.4, 30, True).ticks() == [0.5, 1, 2, 5, 10, 20]
    assert axis("", [3.0, 7.0]).low == 0 and axis("", []).high > 0 and axis("", [2.0], zero=False).low < 2
    assert Axis("", 1, 100, True).share(10) == pytest.approx(0.5)


def test_charts_are_well_formed_whatever_the_names() -> None:
    from xml.etree import ElementTree

    x = Axis("x < 1 & y", 0, 1)
    drawn = lines([Series("<b>", ((0, 0), (1, float("nan")), (1, 1)), 0)], x, x, '"quoted"')
    assert ElementTree.fromstring(drawn).get("aria-label") == '"quoted"'
    ElementTree.fromstring(whiskers([ChartRow("<i>&", (None,))], ["a"], x, "empty"))


def test_an_axis_of_nothing_but_zeros_has_a_length() -> None:
    flat = axis("error", [0.0, 0.0])
    assert flat.low == 0 < flat.high
    assert axis("difference", [-1.0, 0.0]).high == 0
