"""Runs and suites for people: on the terminal, as one page of HTML, as figures and tables."""

from __future__ import annotations

from robustlab.report.html import write_report, write_suite_report
from robustlab.report.run import conclude, print_run, print_suite, run_object, suite_object
from robustlab.report.terminal import make_console, marked_text, print_indented, safe_text

__all__ = [
    "conclude",
    "make_console",
    "marked_text",
    "print_indented",
    "print_run",
    "print_suite",
    "run_object",
    "safe_text",
    "suite_object",
    "write_report",
    "write_suite_report",
]
