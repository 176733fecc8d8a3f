"""What an adversary wants: small frozen objects that judge an output and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from robustlab.models.target import FloatArray

__all__ = ["UntargetedClassification"]


@dataclass(frozen=True, slots=True)
class UntargetedClassification:
    """Any class but the right one.

    ``truth`` is the right class as the target numbers it.
    """

    truth: int

    def is_met(self, probabilities: FloatArray) -> bool:
        """Whether the most probable class, the first one of equals, is not ``truth``.

        ``probabilities``: one text's, shape (classes,).
        """
        if probabilities.ndim != 1 or not 0 <= self.truth < len(probabilities):
            raise ValueError(
                f"class {self.truth} is not judged by probabilities of shape {probabilities.shape}"
            )
        return int(probabilities.argmax()) != self.truth
