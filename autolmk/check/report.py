"""The faults that a check finds, and its report of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autolmk.dataset import Dataset
from autolmk.errors import AutolmkError, counted
from autolmk.files.serialization import to_json
from autolmk.fingerprint import Fingerprint, fingerprint_of
from autolmk.fingerprint.summary import CaseSummary
from autolmk.imageio import Notice

Severity = Literal["dataset", "case", "warning"]
Split = Literal["Tr", "Ts"]
SEVERITIES: tuple[Severity, ...] = ("dataset", "case", "warning")
NOUNS = {
    "dataset": ("fault of the dataset", "faults of the dataset"),
    "case": ("fault of a case", "faults of cases"),
    "warning": ("warning", "warnings"),
}
MEANING = {
    "dataset": ("nothing can be done before it is mended", "nothing can be done before they are mended"),
    "case": ("this case is left out", "these cases are left out"),
    "warning": ("everything goes on", "everything goes on"),
}


@dataclass(frozen=True)
class Fault:
    """A fault that a check found. severity: `dataset` stops before anything is written, `case` leaves the case out,
    `warning` changes nothing. split: of a case with a fault: Tr or Ts.
    """

    severity: Severity
    problem: str
    file: str | None = None
    case: str | None = None
    found: str | None = None
    expected: str | None = None
    remedy: str | None = None
    split: Split | None = None

    @classmethod
    def of(
        cls, error: AutolmkError, severity: Severity, *, case: str | None = None, split: Split | None = None
    ) -> Fault:
        """The same as an error."""
        found, expected = (None if v is None else str(v) for v in (error.found, error.expected))
        return cls(severity, error.problem, error.file, error.case or case, found, expected, error.remedy, split)

    @classmethod
    def of_notice(cls, notice: Notice, case: str, split: Split) -> Fault:
        """A warning: what reading an image noticed."""
        return cls(
            "warning", notice.problem, notice.file, case, notice.found, notice.expected, notice.remedy, split=split
        )

    def __str__(self) -> str:
        error = AutolmkError(
            self.problem, file=self.file, case=self.case, found=self.found, expected=self.expected, remedy=self.remedy
        )
        return str(error)


@dataclass(frozen=True, eq=False)
class Report:
    """The report of a check. name, folder: of the dataset; dataset: None where it could not be opened. faults: worst
    first. good_cases: training cases without a fault of their own, by name. n_cases: of training, in all. summaries: of
    the good ones.
    """

    name: str
    folder: Path
    faults: tuple[Fault, ...]
    good_cases: tuple[str, ...] = ()
    n_cases: int = 0
    dataset: Dataset | None = None
    bad_cases: tuple[str, ...] = ()
    summaries: Mapping[str, CaseSummary] = field(default_factory=dict)

    def of(self, severity: Severity) -> tuple[Fault, ...]:
        """The faults of this severity."""
        return tuple(fault for fault in self.faults if fault.severity == severity)

    @property
    def exit_code(self) -> int:
        """The exit code: 0 clean or warnings only, 2 faults of the dataset, 3 faults of cases."""
        return 2 if self.of("dataset") else 3 if self.of("case") else 0

    def raise_dataset_faults(self) -> None:
        """Raise AutolmkError with all faults of the dataset, where there are any."""
        faults = self.of("dataset")
        if len(faults) == 1:
            fault = faults[0]
            raise AutolmkError(
                fault.problem,
                file=fault.file,
                case=fault.case,
                found=fault.found,
                expected=fault.expected,
                remedy=fault.remedy,
            )
        if faults:
            raise AutolmkError(
                f"the dataset has {counted(len(faults), 'fault')}\n" + "\n".join(_indented(f) for f in faults),
                remedy="mend them, then run autolmk_check again",
            )

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the good cases, made from what the check has read of them. AutolmkError where the dataset
        itself is at fault.
        """
        self.raise_dataset_faults()
        assert self.dataset is not None
        return fingerprint_of(
            self.summaries,
            dataset_name=self.name,
            unit=self.dataset.unit,
            channel_names=self.dataset.channel_names,
            pairs=self.dataset.pairs,
            slices=self.dataset.co_slice_groups,
            failed=self.bad_cases,
        )

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON-ready dict, for scripts."""
        return {
            "dataset": self.name,
            "folder": str(self.folder),
            "exit_code": self.exit_code,
            "n_cases": self.n_cases,
            "good_cases": list(self.good_cases),
            "bad_cases": list(self.bad_cases),
            "faults": to_json(self.faults),
        }

    def text(self) -> str:
        """The report as text for people."""
        lines = []
        for severity in SEVERITIES:
            faults = self.of(severity)
            if faults:
                meaning = MEANING[severity][len(faults) > 1]
                heading = f"{counted(len(faults), *NOUNS[severity])} ({meaning}):"
                lines += [heading, *(_indented(fault) for fault in faults), ""]
        counts = ", ".join(counted(len(self.of(s)), *NOUNS[s]) for s in SEVERITIES)
        cases = counted(self.n_cases, "training case is", "training cases are")
        lines.append(f"{self.name}: {len(self.good_cases)} of {cases} usable; {counts}")
        return "\n".join(lines)


def _indented(fault: Fault) -> str:
    return "- " + str(fault).replace("\n", "\n  ")
