"""A target behind defences, as an attack is given it: the adversary searches through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from robustlab.attack.examples import ExampleSource
from robustlab.models.target import Target

__all__ = ["Defend", "defended"]


class Defend(Protocol):
    """Puts defences in front of a target: :func:`robustlab.defense.defend`, which stands on a
    floor above this one."""

    def __call__(
        self,
        target: Target,
        specs: Sequence[str],
        *,
        texts: Callable[[], Sequence[str]],
        seed: int,
    ) -> Target:
        """The target behind the defences that are named."""


def defended(
    target: Target, defense: Sequence[str], examples: ExampleSource, defend: Defend | None
) -> Target:
    """A target behind defences, which learn from the training split where they learn.

    Raises:
        UserError: no such defence, one that does not fit the target, or nothing to learn from.
    """
    if not defense:
        return target
    if defend is None:
        raise ValueError("defences are named, and nothing is given that could put them there")
    return defend(target, defense, texts=examples.training_texts, seed=examples.seed)
