"""The messages of a training run: training_log.jsonl, the console, progress.png, and loggers of the user's choice."""

from __future__ import annotations

import importlib
import io
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from autolmk.errors import AutolmkError
from autolmk.files.serialization import near, to_json, write_bytes
from autolmk.progress_bars import duration as duration
from autolmk.progress_bars import has_bars

LOG_NAME = "training_log.jsonl"
PICTURE_NAME = "progress.png"
PICTURE_EVERY = 60.0  # s
SPOKEN_EVERY = 10.0  # s: lines on the console come no closer
logger = logging.getLogger(__name__)


class Logger(Protocol):
    """A logger to which the numbers of a run go as well. Names are such as `loss`, `learning_rate`,
    `validation_mre`.
    """

    def begin(self, run: Mapping[str, Any]) -> None:
        """Once, with the run's settings (JSON-ready); again after each resume."""

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Some named numbers, as they stand after `iteration` steps."""

    def end(self) -> None:
        """Once the run ends or is interrupted."""


class TensorBoardLogger:
    """Event files in FOLDER/tensorboard."""

    MODULE = "torch.utils.tensorboard"

    def __init__(self, folder: Path) -> None:
        module = _optional(self.MODULE, "tensorboard")
        self._writer = module.SummaryWriter(str(folder / "tensorboard"))

    def begin(self, run: Mapping[str, Any]) -> None:
        """The settings as a text."""
        self._writer.add_text("run", f"```\n{json.dumps(to_json(run), indent=2)}\n```")

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """One scalar a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def end(self) -> None:
        """Close TensorBoard's event files."""
        self._writer.close()


class MLflowLogger:
    """A run of MLflow, where its own settings say."""

    MODULE = "mlflow"

    def __init__(self, folder: Path) -> None:
        self._mlflow = _optional(self.MODULE, "mlflow")
        self._name = "/".join(folder.parts[-3:])

    def begin(self, run: Mapping[str, Any]) -> None:
        """Start a run, with the plain settings as its parameters."""
        self._mlflow.start_run(run_name=self._name)
        self._mlflow.log_params({k: v for k, v in run.items() if isinstance(v, (str, int, float))})

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """One metric a name."""
        self._mlflow.log_metrics(dict(values), step=iteration)

    def end(self) -> None:
        """End the run in MLflow."""
        self._mlflow.end_run()


class WandbLogger:
    """A run of Weights & Biases, where its own settings say; files in FOLDER/wandb."""

    MODULE = "wandb"

    def __init__(self, folder: Path) -> None:
        self._wandb = _optional(self.MODULE, "wandb")
        self._folder = folder

    def begin(self, run: Mapping[str, Any]) -> None:
        """Start a run, or go on with the one of this folder's name."""
        name = "/".join(self._folder.parts[-3:])
        self._run = self._wandb.init(name=name, dir=str(self._folder), config=to_json(run))

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """All numbers at once."""
        self._run.log(dict(values), step=iteration)

    def end(self) -> None:
        """Finish the run in Weights & Biases."""
        self._run.finish()


LOGGERS: dict[str, type[TensorBoardLogger] | type[MLflowLogger] | type[WandbLogger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MLflowLogger,
    "wandb": WandbLogger,
}


def check_loggers(names: Sequence[str]) -> None:
    """Raise AutolmkError with near names where one is not known, with what to install where one is missing."""
    for name in names:
        if name not in LOGGERS:
            raise AutolmkError(
                f"there is no logger {name!r}{near(name, LOGGERS)}",
                expected=f"one of {', '.join(LOGGERS)}",
                remedy="choose one of these with --logger, or leave it out",
            )
        _optional(LOGGERS[name].MODULE, name)


def build_loggers(names: Sequence[str], folder: Path) -> list[Logger]:
    """Build the loggers of the stage that is trained into `folder`; each stage of a method has its own. AutolmkError as
    in `check_loggers`.
    """
    check_loggers(names)
    return [LOGGERS[name](folder) for name in names]


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise AutolmkError(
            f"the logger {extra} is not installed", found=str(error), remedy=f"pip install 'autolmk[{extra}]'"
        ) from None


class RunLog:
    """Writes a run's entries: one JSON object a line, kept in memory too for the picture.

    An entry has `kind` (epoch, validation, end), `iteration`, `elapsed` (s) and numbers. After a resume, entries
    that the checkpoint has not seen are dropped, so that the log tells one unbroken story.
    """

    def __init__(
        self, folder: Path, *, keep_until: int, unit: str, loggers: Sequence[Logger] = (), fresh: bool = False
    ) -> None:
        self.folder, self.unit, self.loggers = folder, unit, tuple(loggers)
        self.file = folder / LOG_NAME
        self.entries = [] if fresh else [e for e in read_log(folder) if e["iteration"] <= keep_until]
        self._drawn = -PICTURE_EVERY
        self._pictured = -1  # entries in the picture
        self._spoken = -SPOKEN_EVERY
        write_bytes(self.file, "".join(_line(entry) for entry in self.entries).encode())

    def add(self, kind: str, iteration: int, elapsed: float, values: Mapping[str, Any], *, message: str = "") -> None:
        """Write an entry; say `message` on the console (an epoch's only every ten seconds); draw now and then."""
        entry = to_json({"kind": kind, "iteration": iteration, "elapsed": round(elapsed, 3), **values})
        self.entries.append(entry)
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(_line(entry))
        prefix = "validation_" if kind == "validation" else ""
        numbers = {
            f"{prefix}{k}": float(v) for k, v in entry.items() if isinstance(v, (int, float)) and k != "iteration"
        }
        for other in self.loggers:
            other.log(iteration, numbers)
        now = time.monotonic()
        if message and (kind != "epoch" or now - self._spoken >= SPOKEN_EVERY):
            self._spoken = now
            logger.info(message)
        if now - self._drawn >= PICTURE_EVERY:
            self.draw()

    def draw(self) -> None:
        """progress.png from all entries, unless it shows them already."""
        self._drawn = time.monotonic()
        if self._pictured == len(self.entries):
            return
        self._pictured = len(self.entries)
        write_bytes(self.folder / PICTURE_NAME, progress_picture(self.entries, self.unit))

    def close(self) -> None:
        """Draw a last time and end the other loggers."""
        self.draw()
        for other in self.loggers:
            other.end()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The entries of a folder's log; an unfinished last line, as a kill may leave it, is left out."""
    file = folder / LOG_NAME
    entries: list[dict[str, Any]] = []
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise AutolmkError(
                "the training log is damaged",
                file=file,
                found=f"line {number}: {error}",
                remedy="delete the file; training goes on without it",
            ) from None
    return entries


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"


def progress_picture(entries: Sequence[Mapping[str, Any]], unit: str) -> bytes:
    """The progress of training as PNG: loss and learning rate by iteration, the error of the held-out cases beside the
    loss.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [e for e in entries if e["kind"] == "epoch"]
    validations = [e for e in entries if e["kind"] == "validation" and e.get("mre") is not None]
    figure = Figure(figsize=(9, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([e["iteration"] for e in epochs], [e["loss"] for e in epochs], color="tab:blue", label="training loss")
    upper.set_ylabel("loss")
    error = upper.twinx()
    for key, style in (("mre", "o-"), ("median", "s--")):
        at = [e["iteration"] for e in validations]
        error.plot(at, [e[key] for e in validations], style, color="tab:red", markersize=4, label=f"held-out {key}")
    error.set_ylabel(f"radial error ({unit})", color="tab:red")
    error.set_ylim(bottom=0)
    handles = [*upper.get_lines(), *error.get_lines()]
    upper.legend(handles, [str(h.get_label()) for h in handles], loc="upper right")
    lower.plot([e["iteration"] for e in epochs], [e["learning_rate"] for e in epochs], color="tab:green")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("iteration")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


class Console:
    """A progress bar over the share of the run, with the time left; only where stderr is a terminal."""

    def __init__(self, name: str) -> None:
        from tqdm import tqdm

        layout = "{desc} {percentage:5.1f} % |{bar}| {elapsed}{postfix}"
        self._bar: Any = tqdm(
            total=1.0, desc=name, bar_format=layout, file=sys.stderr, disable=not has_bars(), leave=False
        )

    def show(self, progress: float, elapsed: float, loss: float | None) -> None:
        """Show the progress of the whole run: share 0 to 1, seconds so far."""
        if self._bar.disable:
            return
        left = f"{duration(time_left(progress, elapsed))} left"
        self._bar.set_postfix_str(left if loss is None else f"{left}, loss {loss:.4g}", refresh=False)
        self._bar.update(progress - self._bar.n)

    def close(self) -> None:
        """Remove the progress bar."""
        self._bar.close()


def time_left(progress: float, elapsed: float) -> float | None:
    """Seconds, None while nothing can be said."""
    return elapsed * (1 - progress) / progress if progress > 0 else None
