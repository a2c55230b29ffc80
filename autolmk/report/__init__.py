"""The report: what was chosen and why, how good it is, and where it fails, as one HTML file."""

from autolmk.report.page import write_report
from autolmk.report.sources import Sources, read_sources

__all__ = ["Sources", "read_sources", "write_report"]
