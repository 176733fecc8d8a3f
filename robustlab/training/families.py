"""Which module trains and judges which kind of model, and by which methods; imported when used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from robustlab.errors import UserError

if TYPE_CHECKING:
    import torch

    from robustlab.training.inner import Maximisation
    from robustlab.training.tasks import Task

__all__ = [
    "FAMILIES",
    "METHODS",
    "Family",
    "Judge",
    "JudgePlan",
    "Judged",
    "TaskPlan",
    "load_task",
    "make_judge",
    "make_method",
]


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """What a task is made from.

    ``spec`` names the model to begin with, ``data`` what it is trained on (the family's default
    where None). ``peft`` is None to train all parameters. ``limit_train`` and ``limit_validation``
    bound the examples; ``replay`` names further data that is mixed in. ``defense`` names repairs
    that every text goes through before the model reads it, and that an adversary knows.
    """

    spec: str
    data: str | None
    device: torch.device
    peft: str | None = None
    batch_size: int = 32
    seed: int = 0
    limit_train: int | None = None
    limit_validation: int | None = None
    replay: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    defense: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """What trained models are judged by: the same for all models of a curve.

    ``suite`` names the attack, the family's default where None; ``trained_against`` names
    recipes that are kept out of the worst case; ``defense`` what the models stand behind, as in
    training.
    """

    data: str | None
    device: str
    suite: str | None = None
    seed: int = 0
    limit: int | None = None
    dtype: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    trained_against: frozenset[str] = frozenset()
    defense: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """How a model did on each example, without an attack and under an attack afresh.

    ``clean`` and ``robust``: example id -> whether it was right (for a retriever: whether it
    found the gold passage); robust is the worst case over the suite's attacks, and False where
    clean is. ``attacks``: the verdicts under each attack, or, where ``in_turn``, under it and those
    before it: an example that one has broken is spared the next. ``embedded`` names attacks that
    no text realises, which are in no worst case and whose verdicts are their own. ``measures``:
    whatever else is reported, by name. ``constant``: how often the most common answer is right,
    which no attack can change: a model whose robust accuracy is no higher might as well not look
    at the text. ``words`` say what clean and robust mean here, e.g. ("clean accuracy",
    "robust accuracy").
    """

    clean: Mapping[str, bool]
    robust: Mapping[str, bool]
    attacks: Mapping[str, Mapping[str, bool]]
    embedded: tuple[str, ...] = ()
    in_turn: bool = False
    measures: Mapping[str, float | None] = field(default_factory=dict)
    certified: float | None = None
    constant: float | None = None
    words: tuple[str, str] = ("clean accuracy", "robust accuracy")


class Judge(Protocol):
    """Attacks models afresh, all in the same way."""

    @property
    def name(self) -> str:
        """What the attacks together are called."""

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks; none of them may be the training attack."""

    def judge(self, spec: str, folder: Path) -> Judged:
        """Judge the model in ``spec`` and leave what came of it in ``folder``, which a second
        call with the same arguments takes up where it was interrupted."""


@dataclass(frozen=True, slots=True)
class Family:
    """Where a family's functions are, as ``module:function``.

    ``task``: (TaskPlan) -> Task; ``judge``: (JudgePlan) -> Judge. ``data`` is the default.
    """

    task: str
    judge: str
    data: str


FAMILIES: Mapping[str, Family] = {
    "classifier": Family(
        "robustlab.training.classifiers:load_task",
        "robustlab.training.classifiers:make_judge",
        "corpora/reviews",
    ),
    "seq2seq": Family(
        "robustlab.training.readers:load_task",
        "robustlab.training.readers:make_judge",
        "corpora/fieldguide",
    ),
    "causal": Family(
        "robustlab.training.readers:load_task",
        "robustlab.training.readers:make_judge",
        "corpora/fieldguide",
    ),
    "retriever": Family(
        "robustlab.training.retrievers:load_task",
        "robustlab.training.retrievers:make_judge",
        "corpora/fieldguide",
    ),
}
"""By kind of model."""

_READERS = frozenset({"seq2seq", "causal"})
_TEXT = frozenset({"classifier", *_READERS})
_ALL = frozenset(FAMILIES)

METHODS: Mapping[str, tuple[frozenset[str], str]] = {
    "none": (_ALL, "robustlab.training.embedding:make"),
    "pgd": (_ALL, "robustlab.training.embedding:make"),
    "freelb": (_ALL, "robustlab.training.embedding:make"),
    "smart": (_TEXT, "robustlab.training.embedding:make"),
    "trades": (_TEXT, "robustlab.training.embedding:make"),
    "continuous": (_READERS, "robustlab.training.embedding:make"),
    "a2t": (_TEXT, "robustlab.training.tokens:make"),
    "hotflip": (_TEXT, "robustlab.training.tokens:make"),
    "augment": (_TEXT, "robustlab.training.tokens:make"),
    "mixed": (_TEXT, "robustlab.training.tokens:make"),
    "poison": (_READERS | {"retriever"}, "robustlab.training.poison:make"),
    "typo": (frozenset({"retriever"}), "robustlab.training.typos:make"),
}
"""Method -> the kinds it trains, and its maker: (name, strength, task, options) -> Maximisation."""


def load_task(kind: str, plan: TaskPlan) -> Task:
    """The task of a kind of model."""
    return cast("Task", _found(_family(kind).task)(plan))


def make_judge(kind: str, plan: JudgePlan) -> Judge:
    """What judges the trained models of a kind."""
    return cast("Judge", _found(_family(kind).judge)(plan))


def make_method(
    name: str, strength: float, task: Task, options: Mapping[str, Any] | None = None
) -> Maximisation:
    """A method at one strength for a task.

    Raises:
        UserError: no such method, one that does not train this kind, or a strength not above 0
            (0 is the control, ``none``).
    """
    if name not in METHODS:
        raise UserError(f"there is no method {name!r}; there are: {', '.join(METHODS)}")
    kinds, place = METHODS[name]
    if task.kind not in kinds:
        able = ", ".join(method for method, (own, _) in METHODS.items() if task.kind in own)
        raise UserError(f"the method {name} does not train a {task.kind}; these do: {able}")
    if name != "none" and not 0 < strength < float("inf"):
        raise UserError(
            f"the strength of {name} must be above 0, not {strength:g}; the control, which is "
            "always trained beside it, is --method none"
        )
    return cast("Maximisation", _found(place)(name, strength, task, dict(options or {})))


def _family(kind: str) -> Family:
    if kind not in FAMILIES:
        raise UserError(f"a {kind} cannot be trained; these can: {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def _found(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), name))
