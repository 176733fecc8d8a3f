"""What all filters that judge a text by itself share: they keep what is not above a threshold."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import content_hash
from robustlab.retrieval import Hit

__all__ = ["ThresholdDetector"]


class ThresholdDetector(ABC):
    """A :class:`~robustlab.defense.protocols.Detector` around a score of texts.

    Args:
        name: what ``--defense`` calls it.
        threshold: the largest suspicion that is kept.
        numbers: what else goes into the manifest.
    """

    def __init__(self, name: str, threshold: float, numbers: Mapping[str, Any]) -> None:
        self.name = name
        self.threshold = threshold
        self._numbers = dict(numbers)

    @abstractmethod
    def suspicion(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """How suspicious each text is, shape (texts,)."""

    def keep(self, questions: Sequence[str], ranked: Sequence[Sequence[Hit]]) -> list[list[bool]]:
        """Passages that are no more suspicious than the threshold, whatever the question."""
        contents = [[hit.passage.contents for hit in hits] for hits in ranked]
        unique = list(dict.fromkeys(text for texts in contents for text in texts))
        verdicts = (self.suspicion(unique) <= self.threshold).tolist() if unique else []
        fine = dict(zip(unique, verdicts, strict=True))
        return [[fine[text] for text in texts] for texts in contents]

    def describe(self) -> Mapping[str, Any]:
        """Name, threshold and the numbers that it was made with."""
        return {"name": self.name, "threshold": self.threshold, **self._numbers}

    def fingerprint(self) -> str:
        """Hash of its numbers and of the corpus that it was fitted on."""
        return content_hash([json.dumps(self.describe(), sort_keys=True)])
