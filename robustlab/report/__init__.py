"""A run for people: tables and marks on the terminal, and one page of HTML."""

from __future__ import annotations

from robustlab.report.html import write_report
from robustlab.report.run import print_run, run_object
from robustlab.report.terminal import make_console, marked_text, print_indented, safe_text

__all__ = [
    "make_console",
    "marked_text",
    "print_indented",
    "print_run",
    "run_object",
    "safe_text",
    "write_report",
]
