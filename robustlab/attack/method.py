"""What a search method is given, and what it must come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from robustlab.attack.engine import Search
from robustlab.attack.goals import UntargetedClassification
from robustlab.models.target import FloatArray, TextInput

__all__ = ["Found", "Method", "Start"]


@dataclass(frozen=True, slots=True)
class Start:
    """Where the attack on one example begins.

    ``probabilities``: what the target says of the original, shape (classes,), rounded like every
    answer. It was the example's first query. ``queries_left`` is the budget after it, None for no
    limit.
    """

    text: TextInput
    goal: UntargetedClassification
    probabilities: FloatArray
    queries_left: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """The best text that a method came to, and whether it believes to have met the goal.

    Believing is not enough: the campaign judges the text anew.
    """

    text: TextInput
    claims_success: bool


Method: TypeAlias = Callable[[Start, np.random.Generator], Search[Found]]
"""One attack, ready to be started on any example."""
