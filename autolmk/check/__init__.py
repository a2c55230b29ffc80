"""The check of a raw dataset: every fault at once, each with what to do about it. Nothing here needs torch."""

from __future__ import annotations

from autolmk.check.dataset import check_dataset
from autolmk.check.report import Fault, Report, Severity

__all__ = ["Fault", "Report", "Severity", "check_dataset"]
