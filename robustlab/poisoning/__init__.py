"""Poisoning: passages of an adversary's in the corpus of a RAG pipeline, and what they do."""

from __future__ import annotations

from robustlab.poisoning.entry import attack_rag
from robustlab.poisoning.method import (
    Knowledge,
    Poison,
    PoisonMethod,
    PoisonStart,
    SharedPoisonMethod,
)

__all__ = ["Knowledge", "Poison", "PoisonMethod", "PoisonStart", "SharedPoisonMethod", "attack_rag"]
