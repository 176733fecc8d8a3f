"""How good a target is without an attack: ``robustlab evaluate``.

Each kind of target has a module that yields one outcome after another, as they go into the run,
and computes the summary from outcomes alone.
"""

from __future__ import annotations

from robustlab.evaluation.entry import EvaluationResult, evaluate

__all__ = ["EvaluationResult", "evaluate"]
