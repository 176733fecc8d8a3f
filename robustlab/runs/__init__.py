"""Run directories: the manifest, the outcomes and the summary of one run.

Nothing else in robustlab writes results.
"""

from __future__ import annotations

from robustlab.runs.manifest import build_manifest
from robustlab.runs.store import RunDirectory, default_run_folder

__all__ = ["RunDirectory", "build_manifest", "default_run_folder"]
