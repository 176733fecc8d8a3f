"""What a certificate says, and against whom.

A certificate of an answer is a set that holds every answer the defended pipeline can give, up to
:func:`~robustlab.metrics.answers.normalise`, whatever an adversary with the stated power does.
Whether the pipeline stays *right* is then a question to that set: it does if every answer in it is
right. Certificates are worked out from clean passages alone; nothing of an attack enters them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Protocol, runtime_checkable

from robustlab.defense.protocols import ReaderDefense
from robustlab.errors import UserError
from robustlab.metrics.answers import normalise
from robustlab.rag.pipeline import RagPipeline
from robustlab.retrieval import Hit

__all__ = ["THREATS", "Case", "Certificate", "CertifiedReader", "Corruption", "Threat"]

Threat = Literal["insertion", "replacement"]

THREATS: tuple[Threat, ...] = ("insertion", "replacement")
"""``insertion``: passages are added to the corpus; those that are retrieved push the last of the
clean ones out. ``replacement``: any of the retrieved passages are exchanged; the stronger one."""


@dataclass(frozen=True, slots=True)
class Case:
    """What an adversary may leave: clean passages, ``kept`` by place, and ``added`` of its own."""

    kept: tuple[int, ...]
    added: int


@dataclass(frozen=True, slots=True)
class Corruption:
    """At most ``corrupted`` (k') of the ``slots`` (k) passages that are read are the adversary's.

    Raises:
        UserError: no corrupted passage, or no clean one left.
    """

    corrupted: int
    slots: int
    threat: Threat = "insertion"

    def __post_init__(self) -> None:
        """Refuse what cannot be certified."""
        if self.corrupted < 1:
            raise UserError(f"--corrupted must be at least 1, not {self.corrupted}")
        if self.corrupted >= self.slots:
            raise UserError(
                f"nothing can be certified with {self.corrupted} corrupted of {self.slots} "
                "passages: --corrupted must be smaller than --top-k"
            )

    def cases(self, clean: int) -> list[Case]:
        """Every situation that can arise where ``clean`` passages are read without an attack.

        With r clean passages gone there is room for min(k', k − clean + r) of the adversary's.
        It may also leave places empty or add passages that say nothing. Where all k places are
        taken only r = k' matters: a passage of the adversary's can say what a clean one said.
        """
        cases = []
        first = self.corrupted if clean == self.slots else 0
        for gone in range(first, min(self.corrupted, clean) + 1):
            added = min(self.corrupted, self.slots - clean + gone)
            if self.threat == "insertion":
                cases.append(Case(tuple(range(clean - gone)), added))
            else:
                cases += [Case(kept, added) for kept in combinations(range(clean), clean - gone)]
        return cases


@dataclass(frozen=True, slots=True)
class Certificate:
    """All answers that can be given, normalised; None where it could be anything."""

    answers: frozenset[str] | None

    @classmethod
    def of(cls, answers: Iterable[str]) -> Certificate:
        """A certificate of these answers."""
        return cls(frozenset(map(normalise, answers)))

    @classmethod
    def union(cls, parts: Iterable[frozenset[str] | None]) -> Certificate:
        """What can be given in any of several cases; None among them leaves it open."""
        found: frozenset[str] = frozenset()
        for part in parts:
            if part is None:
                return cls(None)
            found |= part
        return cls(found)

    def holds(self, good: Callable[[str], bool]) -> bool:
        """Whether every answer that can be given is good."""
        return self.answers is not None and all(map(good, self.answers))

    def allows(self, answer: str) -> bool:
        """Whether the certificate says that this answer can be given."""
        return self.answers is None or normalise(answer) in self.answers


@runtime_checkable
class CertifiedReader(ReaderDefense, Protocol):
    """A reader defence whose answers have certificates."""

    def certify(
        self,
        pipeline: RagPipeline,
        questions: Sequence[str],
        ranked: Sequence[Sequence[Hit]],
        corruption: Corruption,
    ) -> list[Certificate]:
        """One certificate for each question, from the clean passages that are read for it.

        ``ranked`` as :meth:`ReaderDefense.read` gets them, at most ``corruption.slots`` each.
        """
