"""Projected gradient descent on token embeddings: an upper bound on damage, not realisable as text.

References:
    Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
    arXiv:1706.06083
    Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text Classification",
    arXiv:1605.07725 (perturbations of word embeddings)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustlab.attack.engine import Search
from robustlab.attack.goals import Verdict
from robustlab.attack.method import Found, Method, Start
from robustlab.attack.recipe import Options, Recipe
from robustlab.attack.tokens import BudgetedGoal, OwnTokens, needed_vocabulary, single_text
from robustlab.errors import UserError
from robustlab.models.target import FloatArray, Predictions, TextInput, TokenGradient, Vocabulary

__all__ = ["Pgd", "pgd_method"]


@dataclass(frozen=True, slots=True)
class Pgd:
    """Shifts the embeddings of a text's tokens within a ball; the text stays as it is.

    With m the mean length of the target's token embeddings and w their width, ``norm = "l2"``
    keeps the shift of every token within a length of ``radius`` * m, and ``"linf"`` every
    coordinate of it within ``radius`` * m / sqrt(w), a cube whose corners are that long. A step
    has ``step_size`` times that size. Special tokens are not shifted. The first of ``restarts``
    begins at the embeddings themselves, the others at random points of the ball.
    """

    name: str
    norm: str
    radius: float
    steps: int
    step_size: float
    restarts: int

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """Descend until the goal is met, or no restart or no query is left."""
        text = single_text(start.text, self.name)
        size = self.radius * self._unit(needed_vocabulary(start, self.name))
        goal = BudgetedGoal(start.goal, start.queries_left)
        # Shaped by the first gradient; (T, W) from then on.
        shift: FloatArray | None = None
        own = np.zeros(0, dtype=np.int64)
        best: dict[str, Any] = {}
        for restart in range(self.restarts):
            if shift is not None:
                shift = np.zeros_like(shift)
                shift[own] = self._random(shift[own].shape, size, rng)
            for step in range(self.steps + 1):
                items = yield from goal.slopes([text], () if shift is None else (shift,))
                if not items:
                    return self._found(text, best)
                (item,) = items
                if shift is None:
                    shift = np.zeros_like(item.gradient)
                    own = np.array(OwnTokens.of(item, start.goal.frame, text).rows, dtype=np.int64)
                verdict = _verdict(start, item)
                if not best or verdict.met or item.loss < best["loss"]:
                    best = {
                        "met": verdict.met,
                        "output": verdict.output,
                        "loss": item.loss,
                        "largest_shift": float(np.linalg.norm(shift, axis=1).max(initial=0.0)),
                        "restart": restart,
                        "step": step,
                    }
                if verdict.met:
                    return self._found(text, best)
                if step < self.steps:
                    moved = shift[own] - self.step_size * size * self._direction(item.gradient[own])
                    shift = np.zeros_like(shift)
                    shift[own] = self._project(moved, size)
        return self._found(text, best)

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """None: the text is not changed."""
        yield from ()
        return None

    def _found(self, text: str, best: dict[str, Any]) -> Found:
        met = bool(best.pop("met", False))
        return Found(text, met, {"norm": self.norm, "radius": self.radius, **best}, embedded=True)

    def _unit(self, vocabulary: Vocabulary) -> float:
        """What a radius of 1 means."""
        width = vocabulary.embeddings.shape[1]
        mean = float(np.linalg.norm(vocabulary.embeddings, axis=1).mean())
        return mean if self.norm == "l2" else mean / math.sqrt(width)

    def _direction(self, gradient: FloatArray) -> FloatArray:
        """The steepest step of size 1 for every token, (P, W) -> (P, W)."""
        if self.norm == "linf":
            return np.asarray(np.sign(gradient))
        return np.asarray(gradient / _lengths(gradient).clip(min=1e-30))

    def _project(self, shift: FloatArray, size: float) -> FloatArray:
        """The nearest point of the ball for every token, (P, W) -> (P, W)."""
        if self.norm == "linf":
            return np.asarray(shift.clip(-size, size))
        # Long vectors end on the sphere; the others are divided by 1.
        return np.asarray(shift / (_lengths(shift) / size).clip(min=1.0))

    def _random(self, shape: tuple[int, ...], size: float, rng: np.random.Generator) -> FloatArray:
        """A point of each token's ball: any direction for l2, with any length up to the radius."""
        if self.norm == "linf":
            return rng.uniform(-size, size, shape).astype(np.float32)
        vectors = rng.standard_normal(shape).astype(np.float32)
        lengths = rng.uniform(0.0, size, (shape[0], 1)).astype(np.float32)
        return np.asarray(vectors / _lengths(vectors) * lengths)


def _lengths(vectors: FloatArray) -> FloatArray:
    """(P, W) -> (P, 1)."""
    return np.asarray(np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def _verdict(start: Start, item: TokenGradient) -> Verdict:
    """Whether the goal is met where this gradient was taken."""
    if item.probabilities is None:
        raise TypeError("this target's gradients do not come with class probabilities")
    (verdict,) = start.goal.verdicts(Predictions(item.probabilities[None]))
    return verdict


def pgd_method(recipe: Recipe) -> Method:
    """The method that a recipe with ``method = "pgd"`` describes.

    Raises:
        UserError: an option that is wrong, constraints on the text, or a goal on generated text.
    """
    if recipe.threat.attacks_generators:
        raise UserError(
            f"the recipe {recipe.source} asks for pgd on generated text: a shifted embedding has "
            "no text that a generator could be asked with, so pgd attacks classifiers only"
        )
    if recipe.constraints:
        raise UserError(
            f"the recipe {recipe.source} has a constraint on the text, which pgd does not change: "
            "it is bounded by search.radius"
        )
    options = Options(recipe, "search", recipe.search)
    method = Pgd(
        name=recipe.name,
        norm=options.choice("norm", ("l2", "linf")),
        radius=options.number("radius", low=0.001, high=100.0),
        steps=options.integer("steps", minimum=1),
        step_size=options.number("step_size", low=0.001, high=10.0),
        restarts=options.integer("restarts", minimum=1),
    )
    options.finish()
    return method
