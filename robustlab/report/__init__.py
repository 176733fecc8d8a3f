"""A run for people: tables and marks on the terminal, and one page of HTML."""

from __future__ import annotations

from robustlab.report.html import write_report
from robustlab.report.measures import Measure, measures
from robustlab.report.terminal import make_console, marked_text, measures_table, safe_text

__all__ = [
    "Measure",
    "make_console",
    "marked_text",
    "measures",
    "measures_table",
    "safe_text",
    "write_report",
]
