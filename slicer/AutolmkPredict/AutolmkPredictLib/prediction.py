"""Prediction: runs the installed autolmk_predict in a process of its own and follows its lines of JSON."""

from __future__ import annotations

import json
import queue
import re
import shutil
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from AutolmkPredictLib.points import ABSENT, UNKNOWN, Point, markups, read_points

COMMAND = "autolmk_predict"
ENDING = ".nii.gz"
CASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
FOREIGN = ("PYTHONHOME", "PYTHONPATH")  # which point at another program's Python
SAID = 4000  # characters of a failed command's messages that are shown


class Prediction:
    """One case at a time: `inputs` says where its images belong, `start` begins, `poll` tells what has happened since,
    `points` holds the result, `save_for_training` keeps corrected points. Errors are ValueError with a message for
    people.

    command: autolmk_predict and arguments before ours. environment: of the process, such as that which Slicer began in.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.command = list(command)
        self.environment = {k: v for k, v in environment.items() if k not in FOREIGN}
        self.progress, self.message, self.error = 0.0, "", ""
        self.points: list[Point] = []
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._messages: IO[str] | None = None
        self._reader: threading.Thread | None = None
        self._case, self._finished = "", False

    # -- before -------------------------------------------------------------------------------------------------------

    @staticmethod
    def channels(model: str) -> list[str]:
        """Names of the images that a model folder, a packed one or a bundle takes, in order."""
        path = Path(model)
        try:
            if path.is_dir():
                found = sorted([*path.glob("plans.json"), *path.glob("*/plans.json")], key=lambda f: len(f.parts))
                text = found[0].read_text(encoding="utf-8")
            else:
                with zipfile.ZipFile(path) as archive:
                    names = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == "plans.json"]
                    text = archive.read(min(names, key=lambda name: name.count("/"))).decode("utf-8")
            return [str(name) for name in json.loads(text)["channel_names"]]
        except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
            raise ValueError(f"{model}: this is no model of autolmk: no plans.json that names its channels") from error

    def inputs(self, case: str, n_channels: int) -> list[str]:
        """Files that the caller writes the case's images to, one a channel."""
        if not CASE.match(case):
            raise ValueError(f"the case's name {case!r} must be letters, digits, '.', '_' and '-'")
        self._forget()
        self._folder = tempfile.TemporaryDirectory(prefix="autolmk_")
        self._case = case
        folder = Path(self._folder.name) / "images"
        folder.mkdir()
        return [str(folder / f"{case}_{i:04d}{ENDING}") for i in range(n_channels)]

    def start(self, model: str, device: str = "auto") -> None:
        """Begin to predict the images that were written."""
        if self._folder is None:
            raise ValueError("nothing was written to predict")
        if self.running:
            raise ValueError("a prediction is at work already")
        program = shutil.which(self.command[0], path=self.environment.get("PATH"))
        if program is None:
            raise ValueError(
                f"{self.command[0]} is not installed where this program looks for commands: install autolmk, or give "
                "the whole path of its autolmk_predict"
            )
        folder = Path(self._folder.name)
        self.progress, self.message, self.error, self.points = 0.0, "loading the model", "", []
        self._finished, self._lines = False, queue.Queue()
        self._messages = (folder / "messages.txt").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [program, *self.command[1:], *self._arguments(folder, model, device)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            encoding="utf-8",
            env=self.environment,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout, self._lines), daemon=True)
        self._reader.start()

    @staticmethod
    def _arguments(folder: Path, model: str, device: str) -> list[str]:
        where = ["-i", str(folder / "images"), "-o", str(folder / "points"), "-m", model]
        return [*where, "-device", device, "-npp", "0", "-nps", "0", "--progress", "json"]

    # -- while it runs ------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether `poll` has more to tell."""
        return self._process is not None

    def poll(self) -> bool:
        """Take in what happened; whether it is still at work. Afterwards `error` or `points` say how it ended."""
        if self._process is None:
            return False
        ended = self._process.poll() is not None and self._reader is not None and not self._reader.is_alive()
        while not self._lines.empty():
            self._take(self._lines.get())
        if ended:
            self._end()
        return self.running

    def cancel(self) -> None:
        """Stop the process and forget the case."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._forget()
        self.message = "cancelled"

    @staticmethod
    def _read(stream: IO[str], lines: queue.Queue[str]) -> None:
        with stream:
            for line in stream:
                lines.put(line)

    def _take(self, line: str) -> None:
        try:
            event: dict[str, Any] = json.loads(line)
            kind = event["event"]
        except (ValueError, KeyError, TypeError):
            return  # lines and events that are not known are left aside
        if kind == "case":
            self.progress, self.message = 0.2, "reading and preparing the image"
        elif kind == "stage":
            self.progress = 0.4 if event.get("stage") == "predict" else 0.9
            self.message = "looking for landmarks" if event.get("stage") == "predict" else "writing"
        elif kind == "warning":
            self.message = str(event.get("message"))
        elif kind == "failed":
            self.error = str(event.get("message"))
        elif kind == "finished":
            self._finished = True
            self._load(event)

    def _load(self, event: Mapping[str, Any]) -> None:
        file = event.get("points", {}).get(self._case)
        if file is not None:
            table = event.get("tables", {}).get("landmarks.csv")
            try:
                self.points = read_points(Path(file), None if table is None else Path(table), self._case)
            except (OSError, ValueError, KeyError, IndexError) as error:
                self.error = f"the points cannot be read: {error}"

    def _end(self) -> None:
        assert self._process is not None and self._messages is not None
        code, self._process = self._process.returncode, None
        self._messages.seek(0)
        said = self._messages.read()[-SAID:].strip()
        if not self.error and (not self._finished or not self.points):
            self.error = f"{self.command[0]} ended with exit code {code}: {said or 'it said nothing'}"
        self.progress, self.message = 1.0, "failed" if self.error else f"{len(self.points)} landmarks"

    def _forget(self) -> None:
        if self._messages is not None:
            self._messages.close()
            self._messages = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    close = cancel

    # -- after --------------------------------------------------------------------------------------------------------

    @staticmethod
    def training_images(dataset: str, case: str, n_channels: int) -> list[str]:
        """Files of a raw dataset that the caller writes the case's images to. Nothing that is there is overwritten."""
        if not CASE.match(case):
            raise ValueError(f"the case's name {case!r} must be letters, digits, '.', '_' and '-'")
        folder = Path(dataset)
        taken = [*folder.glob(f"imagesTr/{case}_*"), *folder.glob(f"landmarksTr/{case}.*")]
        if taken:
            raise ValueError(f"{folder} holds this case already: {taken[0].name}; choose another name for the case")
        (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
        return [str(folder / "imagesTr" / f"{case}_{i:04d}{ENDING}") for i in range(n_channels)]

    def save_for_training(
        self,
        dataset: str,
        case: str,
        places: Mapping[str, Sequence[float]],
        channels: Sequence[str],
        *,
        absent: bool = False,
    ) -> str:
        """Write corrected points of a case, whose images are written, into a raw dataset; the file.

        places: landmark -> LPS, mm. Landmarks of the prediction without a place are unknown; with `absent`, those that
        it called absent stay absent. channels: for dataset.json, which is written where it is missing.
        """
        folder, known = Path(dataset), {point.name for point in self.points}
        names = [*(point.name for point in self.points), *(name for name in places if name not in known)]
        called = {point.name: point.status for point in self.points}
        kept = [
            Point(name, tuple(map(float, places[name])), "defined")  # type: ignore[arg-type]
            if name in places
            else Point(name, None, ABSENT if absent and called[name] == ABSENT else UNKNOWN)
            for name in names
        ]
        description = folder / "dataset.json"
        if not description.exists():
            listed: dict[str, object] = {"channel_names": {str(i): name for i, name in enumerate(channels)}}
            _write(description, listed | {"landmarks": {name: {} for name in names}, "file_ending": ENDING})
        file = folder / "landmarksTr" / f"{case}.mrk.json"
        _write(file, markups(kept))
        return str(file)


def _write(file: Path, content: object) -> None:
    """A file that is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    place = file.with_name(f".{file.name}.part")
    place.write_text(json.dumps(content, indent=2), encoding="utf-8")
    place.replace(file)
