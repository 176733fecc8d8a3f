"""Defences: what answers well although the question or the passages were tampered with."""

from __future__ import annotations

from robustlab.defense.compare import SideBySide, side_by_side
from robustlab.defense.load import DefenseSpec, defend, defense_names, load_defense
from robustlab.defense.pipeline import DefendedRag, Dropped, Explanation, Repaired
from robustlab.defense.protocols import (
    Defense,
    Detector,
    EmbeddingDefense,
    EmbeddingDetector,
    PassageDefense,
    PromptDefense,
    QuestionDefense,
    ReaderDefense,
    TargetDefense,
    Vote,
)

__all__ = [
    "DefendedRag",
    "Defense",
    "DefenseSpec",
    "Detector",
    "Dropped",
    "EmbeddingDefense",
    "EmbeddingDetector",
    "Explanation",
    "PassageDefense",
    "PromptDefense",
    "QuestionDefense",
    "ReaderDefense",
    "Repaired",
    "SideBySide",
    "TargetDefense",
    "Vote",
    "defend",
    "defense_names",
    "load_defense",
    "side_by_side",
]
