"""3D Slicer's module: choose a model and a volume, predict, look, correct, save as training data.

Thin on purpose: what it does stands in AutolmkPredictLib, which knows neither Qt nor Slicer. torch is never imported
here: autolmk runs in a process and an installation of its own.
"""

from __future__ import annotations

from pathlib import Path

import ctk
import qt
from AutolmkPredictLib.points import COLOURS, GROUPS, Point, flipped
from AutolmkPredictLib.prediction import COMMAND, Prediction
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget

import slicer

EVERY = 200  # ms between looks at the process
SURE_UP_TO, UNSURE_FROM = 2.0, 4.0  # mm of the error radius
DEVICES = ("auto", "cpu", "cuda")


class AutolmkPredict(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "Autolmk: anatomical landmarks"
        self.parent.categories = ["Annotation"]
        self.parent.dependencies = []
        self.parent.contributors = ["autolmk's contributors"]
        self.parent.helpText = "Predicts anatomical landmarks by a model that autolmk trained."
        self.parent.acknowledgementText = ""


class AutolmkPredictWidget(ScriptedLoadableModuleWidget):
    """The panel."""

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.prediction = None
        self.nodes = {}  # group -> point list
        self.volumes = []  # selectors, one a channel
        self.channels = []
        form = qt.QFormLayout()
        self.layout.addLayout(form)
        self.command = self._path(form, "Command:", "autolmk_predict of the installation of autolmk")
        self.command.currentPath = qt.QSettings().value("AutolmkPredict/command") or COMMAND
        self.model = self._path(form, "Model:", "a model folder, a packed one, or a bundle (.autolmk.zip)")
        self.model.connect("currentPathChanged(QString)", self.on_model)
        self.channel_form = qt.QFormLayout()
        form.addRow(self.channel_form)
        self.device = qt.QComboBox()
        self.device.addItems(list(DEVICES))
        form.addRow("Device:", self.device)
        self.sure = self._number(form, "Sure up to (mm):", SURE_UP_TO)
        self.unsure = self._number(form, "Unsure from (mm):", UNSURE_FROM)
        self.apply = self._button(form, "Predict", self.on_predict)
        self.stop = self._button(form, "Cancel", self.on_cancel)
        self.bar = qt.QProgressBar()
        self.bar.setMaximum(100)
        form.addRow(self.bar)
        self.said = qt.QLabel("")
        self.said.setWordWrap(True)
        form.addRow(self.said)
        self.dataset = self._path(form, "Dataset:", "raw dataset that corrected points go to, such as Dataset001_Skull")
        self.case = qt.QLineEdit()
        form.addRow("Case:", self.case)
        self.absent = qt.QCheckBox("Landmarks that were not found are absent indeed")
        form.addRow(self.absent)
        self.save = self._button(form, "Save as training data", self.on_save)
        self.timer = qt.QTimer()
        self.timer.setInterval(EVERY)
        self.timer.connect("timeout()", self.on_timer)
        self._enable(False)
        self.layout.addStretch(1)

    def cleanup(self):
        """Slicer closes the panel."""
        self.timer.stop()
        if self.prediction is not None:
            self.prediction.close()

    # -- what the user does -------------------------------------------------------------------------------------------

    def on_model(self, path):
        """A selector for each of the model's channels."""
        try:
            self.channels = Prediction.channels(path)
        except ValueError as error:
            self._fail(str(error))
            return
        while self.channel_form.rowCount():
            self.channel_form.removeRow(0)
        self.volumes = []
        for name in self.channels:
            selector = slicer.qMRMLNodeComboBox()
            selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
            selector.addEnabled = selector.removeEnabled = selector.renameEnabled = False
            selector.setMRMLScene(slicer.mrmlScene)
            self.channel_form.addRow(f"{name}:", selector)
            self.volumes.append(selector)
        self.said.setText("")

    def on_predict(self):
        """Write the volumes, and begin."""
        try:
            nodes = self._volumes()
            self.prediction = self._new_prediction()
            for node, file in zip(nodes, self.prediction.inputs(self._case_name(nodes[0]), len(nodes))):
                _write(node, file)
            self.prediction.start(self.model.currentPath, self.device.currentText)
        except ValueError as error:
            self._fail(str(error))
            return
        qt.QSettings().setValue("AutolmkPredict/command", self.command.currentPath)
        self._enable(True)
        self.timer.start()

    def on_timer(self):
        """Show how far it is, and in the end the points."""
        running = self.prediction.poll()
        self.bar.setValue(round(100 * self.prediction.progress))
        self.said.setText(self.prediction.message)
        if running:
            return
        self.timer.stop()
        self._enable(False)
        if self.prediction.error:
            self._fail(self.prediction.error)
        else:
            self._show(self.prediction.points)

    def on_cancel(self):
        """Stop the process."""
        self.timer.stop()
        self.prediction.cancel()
        self._enable(False)
        self.bar.setValue(0)
        self.said.setText(self.prediction.message)

    def on_save(self):
        """The volumes and the points as they are now, into a raw dataset."""
        dataset, case = self.dataset.currentPath, self.case.text
        try:
            if self.prediction is None or not self.nodes:
                raise ValueError("there are no points to save: predict first")
            if not dataset:
                raise ValueError("choose the folder of a raw dataset")
            nodes = self._volumes()
            for node, file in zip(nodes, self.prediction.training_images(dataset, case, len(nodes))):
                _write(node, file)
            file = self.prediction.save_for_training(
                dataset, case, self._places(), self.channels, absent=self.absent.checked
            )
        except (ValueError, OSError) as error:
            self._fail(str(error))
            return
        self.said.setText(f"saved: {file}")

    # -- what it makes ------------------------------------------------------------------------------------------------

    def _new_prediction(self):
        if self.prediction is not None:
            self.prediction.close()
        return Prediction([self.command.currentPath or COMMAND], slicer.util.startupEnvironment())

    def _volumes(self):
        """The chosen volumes. ValueError where one is missing or lies under a transform, which no file would hold."""
        nodes = [selector.currentNode() for selector in self.volumes]
        if not nodes or any(node is None for node in nodes):
            raise ValueError("choose a model, and a volume for each of its channels")
        for node in nodes:
            if node.GetParentTransformNode() is not None:
                raise ValueError(f"{node.GetName()} lies under a transform: harden it first")
        return nodes

    def _case_name(self, node):
        """Of the volume's name; also what is proposed to save as."""
        name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in node.GetName()).lstrip("._-")
        self.case.text = name or "case"
        return self.case.text

    def _show(self, points: list[Point]):
        """A point list for each group of sureness, in its colour."""
        for node in self.nodes.values():
            slicer.mrmlScene.RemoveNode(node)
        self.nodes = {}
        for group in GROUPS:
            mine = [p for p in points if p.position and p.group(self.sure.value, self.unsure.value) == group]
            if not mine:
                continue
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"Landmarks, {group}")
            node.CreateDefaultDisplayNodes()
            display = node.GetDisplayNode()
            display.SetSelectedColor(*COLOURS[group])
            display.SetColor(*COLOURS[group])
            for point in mine:
                i = node.AddControlPoint(*flipped(point.position))
                node.SetNthControlPointLabel(i, point.name)
                node.SetNthControlPointDescription(i, point.description())
            self.nodes[group] = node
        lost = [p.name for p in points if not p.position]
        self.said.setText(f"{len(points) - len(lost)} landmarks" + (f"; not found: {', '.join(lost)}" if lost else ""))

    def _places(self):
        """Landmark -> LPS of all point lists, as they lie now. ValueError where a name stands twice."""
        places = {}
        for node in self.nodes.values():
            for i in range(node.GetNumberOfControlPoints()):
                name, place = node.GetNthControlPointLabel(i), [0.0, 0.0, 0.0]
                if name in places:
                    raise ValueError(f"two points are called {name!r}: rename or remove one")
                node.GetNthControlPointPositionWorld(i, place)
                places[name] = flipped(place)
        return places

    def _fail(self, message):
        self.said.setText(message)
        slicer.util.errorDisplay(message, windowTitle="Autolmk")

    def _enable(self, running):
        self.apply.enabled, self.stop.enabled, self.save.enabled = not running, running, not running

    @staticmethod
    def _path(form, label, tip):
        path = ctk.ctkPathLineEdit()
        path.toolTip = tip
        form.addRow(label, path)
        return path

    @staticmethod
    def _number(form, label, value):
        box = qt.QDoubleSpinBox()
        box.setRange(0.0, 1000.0)
        box.setValue(value)
        form.addRow(label, box)
        return box

    @staticmethod
    def _button(form, label, called):
        button = qt.QPushButton(label)
        button.connect("clicked(bool)", lambda *_: called())
        form.addRow(button)
        return button


def _write(node, file):
    """A volume as the command reads it."""
    if not slicer.util.saveNode(node, str(Path(file))):
        raise ValueError(f"{node.GetName()} could not be written to {file}")
