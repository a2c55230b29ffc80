"""The Slicer extension's panel, against a stub of the calls that it makes. Nothing here runs inside Slicer."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

MODULE = Path(__file__).parents[2] / "slicer" / "AutolmkPredict"
sys.path.insert(0, str(MODULE))
from AutolmkPredictLib.points import COLOURS, Point  # noqa: E402

SETTINGS: dict[str, str] = {}


class Thing:
    """A widget: attributes as set, signals that `emit` sends, methods that do nothing."""

    def __init__(self, text: str = "") -> None:
        self.text, self.enabled, self.checked, self.currentPath, self.value = text, True, False, "", 0.0
        self.slots: dict[str, Any] = {}
        self.shown: list[Any] = []

    def connect(self, signal: str, called: Any) -> None:
        self.slots[signal] = called

    def emit(self, signal: str, *values: object) -> None:
        self.slots[signal](*values)

    def setText(self, text: str) -> None:
        self.text = text

    def setValue(self, value: float) -> None:
        self.value = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("set", "add", "remove", "start", "stop")):
            return lambda *values: self.shown.append((name, *values))
        raise AttributeError(name)


class Form(Thing):
    def rowCount(self) -> int:
        return 0


class Combo(Thing):
    currentText = "cpu"


class Selector(Thing):
    def currentNode(self) -> Any:
        return self.node


class Settings:
    def value(self, key: str) -> str | None:
        return SETTINGS.get(key)

    def setValue(self, key: str, value: str) -> None:
        SETTINGS[key] = value


class Volume:
    def __init__(self, name: str, transform: object = None) -> None:
        self.name, self.transform = name, transform

    def GetName(self) -> str:
        return self.name

    def GetParentTransformNode(self) -> object:
        return self.transform


class PointList:
    """In RAS, as Slicer's."""

    def __init__(self, name: str) -> None:
        self.name, self.points, self.colour = name, list[list[Any]](), None

    def CreateDefaultDisplayNodes(self) -> None:
        pass

    def GetDisplayNode(self) -> Any:
        return SimpleNamespace(SetSelectedColor=self._colour, SetColor=self._colour)

    def _colour(self, *rgb: float) -> None:
        self.colour = rgb

    def AddControlPoint(self, *place: float) -> int:
        self.points.append([list(place), "", ""])
        return len(self.points) - 1

    def SetNthControlPointLabel(self, i: int, name: str) -> None:
        self.points[i][1] = name

    def SetNthControlPointDescription(self, i: int, text: str) -> None:
        self.points[i][2] = text

    def GetNumberOfControlPoints(self) -> int:
        return len(self.points)

    def GetNthControlPointLabel(self, i: int) -> str:
        return str(self.points[i][1])

    def GetNthControlPointPositionWorld(self, i: int, place: list[float]) -> None:
        place[:] = self.points[i][0]


class Scene:
    def __init__(self) -> None:
        self.nodes: list[PointList] = []

    def AddNewNodeByClass(self, kind: str, name: str) -> PointList:
        assert kind == "vtkMRMLMarkupsFiducialNode"
        self.nodes.append(PointList(name))
        return self.nodes[-1]

    def RemoveNode(self, node: PointList) -> None:
        self.nodes.remove(node)


class StubPrediction:
    """Three polls, then two points of which one was not found."""

    made: ClassVar[list[StubPrediction]] = []
    fails = ""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.command, self.environment, self.calls = command, environment, list[tuple[Any, ...]]()
        self.progress, self.message, self.error, self.points = 0.0, "", "", list[Point]()
        StubPrediction.made.append(self)

    @staticmethod
    def channels(model: str) -> list[str]:
        if model != "model":
            raise ValueError("no model")
        return ["T1", "T2"]

    def inputs(self, case: str, n: int) -> list[str]:
        self.calls.append(("inputs", case, n))
        return [f"/tmp/{case}_{i}" for i in range(n)]

    def start(self, model: str, device: str) -> None:
        self.calls.append(("start", model, device))

    def poll(self) -> bool:
        self.progress += 0.5
        if self.progress < 1.0:
            self.message = "looking"
            return True
        self.error = StubPrediction.fails
        self.points = [
            Point("A", (1.0, 2.0, 3.0), "defined", 0.9, 1.0),
            Point("B", (4.0, 5.0, 6.0), "defined", 0.9, 9.0, "far"),
            Point("C", None, "missing"),
        ]
        return False

    def cancel(self) -> None:
        self.message = "cancelled"

    close = cancel

    def training_images(self, dataset: str, case: str, n: int) -> list[str]:
        return [f"{dataset}/{case}_{i}" for i in range(n)]

    def save_for_training(self, *values: Any, **more: Any) -> str:
        self.calls.append(("save", *values, more))
        return "saved.mrk.json"


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    names = ["QProgressBar", "QLabel", "QLineEdit", "QCheckBox", "QTimer", "QDoubleSpinBox", "QPushButton"]
    qt, ctk, slicer = ModuleType("qt"), ModuleType("ctk"), ModuleType("slicer")
    for name in names:
        setattr(qt, name, Thing)
    qt.QFormLayout, qt.QComboBox, qt.QSettings = Form, Combo, Settings  # type: ignore[attr-defined]
    ctk.ctkPathLineEdit = Thing  # type: ignore[attr-defined]
    slicer.qMRMLNodeComboBox, slicer.mrmlScene = Selector, Scene()  # type: ignore[attr-defined]
    slicer.saved, slicer.errors = [], []  # type: ignore[attr-defined]
    slicer.util = SimpleNamespace(  # type: ignore[attr-defined]
        startupEnvironment=lambda: {"PATH": "/usr/bin"},
        saveNode=lambda node, file: not slicer.saved.append((node.GetName(), file)),  # type: ignore[attr-defined]
        errorDisplay=lambda text, windowTitle: slicer.errors.append(text),  # type: ignore[attr-defined]
    )
    base = ModuleType("slicer.ScriptedLoadableModule")

    class Widget:
        def setup(self) -> None:
            self.layout = Form()

    base.ScriptedLoadableModule, base.ScriptedLoadableModuleWidget = object, Widget  # type: ignore[attr-defined]
    for module in (qt, ctk, slicer, base):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    SETTINGS.clear()
    StubPrediction.made, StubPrediction.fails = [], ""
    code = runpy.run_path(str(MODULE / "AutolmkPredict.py"))
    widget_class = code["AutolmkPredictWidget"]
    monkeypatch.setitem(widget_class.setup.__globals__, "Prediction", StubPrediction)
    widget = widget_class()
    widget.setup()
    widget.slicer = slicer
    yield widget
    widget.cleanup()


def chosen(panel: Any, *volumes: Volume) -> Any:
    panel.model.currentPath = "model"
    panel.model.emit("currentPathChanged(QString)", "model")
    for selector, volume in zip(panel.volumes, volumes, strict=True):
        selector.node = volume
    return panel


def predicted(panel: Any) -> Any:
    chosen(panel, Volume("Head of Zoë"), Volume("T2"))
    panel.apply.emit("clicked(bool)", False)
    panel.timer.emit("timeout()")
    assert panel.bar.value == 50 and panel.said.text == "looking" and panel.stop.enabled and not panel.apply.enabled
    panel.timer.emit("timeout()")
    return panel


def test_from_a_model_to_points_in_colours(panel: Any) -> None:
    predicted(panel)
    (prediction,) = StubPrediction.made
    assert prediction.command == ["autolmk_predict"] and prediction.environment == {"PATH": "/usr/bin"}
    assert prediction.calls == [("inputs", "Head_of_Zo_", 2), ("start", "model", "cpu")]
    assert panel.slicer.saved == [("Head of Zoë", "/tmp/Head_of_Zo__0"), ("T2", "/tmp/Head_of_Zo__1")]
    sure, unsure = panel.slicer.mrmlScene.nodes
    assert (sure.name, unsure.name) == ("Landmarks, sure", "Landmarks, unsure")
    assert sure.points == [[[-1.0, -2.0, 3.0], "A", "likelihood 0.90, error radius 1.0 mm"]]
    assert unsure.points[0][2].endswith("error radius 9.0 mm, far")
    assert (sure.colour, unsure.colour) == (COLOURS["sure"], COLOURS["unsure"])
    assert panel.said.text == "2 landmarks; not found: C" and panel.apply.enabled and not panel.stop.enabled
    assert SETTINGS == {"AutolmkPredict/command": "autolmk_predict"} and panel.slicer.errors == []


def test_points_are_replaced_by_those_of_the_next_prediction(panel: Any) -> None:
    predicted(panel)
    predicted(panel)
    assert len(panel.slicer.mrmlScene.nodes) == 2 and len(StubPrediction.made) == 2


def test_corrected_points_are_saved_in_lps(panel: Any) -> None:
    predicted(panel)
    panel.slicer.mrmlScene.nodes[0].points[0][0] = [-1.5, -2.0, 3.0]
    panel.dataset.currentPath, panel.case.text, panel.absent.checked = "D", "case_7", True
    panel.save.emit("clicked(bool)", False)
    places = {"A": (1.5, 2.0, 3.0), "B": (4.0, 5.0, 6.0)}
    assert StubPrediction.made[0].calls[-1] == ("save", "D", "case_7", places, ["T1", "T2"], {"absent": True})
    assert panel.slicer.saved[-2:] == [("Head of Zoë", "D/case_7_0"), ("T2", "D/case_7_1")]
    assert panel.said.text == "saved: saved.mrk.json"


def test_what_goes_wrong_is_shown(panel: Any) -> None:
    panel.save.emit("clicked(bool)", False)
    panel.model.emit("currentPathChanged(QString)", "another")
    panel.apply.emit("clicked(bool)", False)
    chosen(panel, Volume("T1"), Volume("T2", transform=object()))
    panel.apply.emit("clicked(bool)", False)
    said = ("predict first", "no model", "choose a model, and a volume", "harden it first")
    assert all(text in error for text, error in zip(said, panel.slicer.errors, strict=True))
    StubPrediction.fails = "too dark"
    predicted(panel)
    assert panel.slicer.errors[-1] == panel.said.text == "too dark" and panel.slicer.mrmlScene.nodes == []


def test_a_cancelled_prediction_leaves_no_points(panel: Any) -> None:
    chosen(panel, Volume("T1"), Volume("T2"))
    panel.apply.emit("clicked(bool)", False)
    panel.stop.emit("clicked(bool)", False)
    assert panel.said.text == "cancelled" and panel.apply.enabled and panel.slicer.mrmlScene.nodes == []
