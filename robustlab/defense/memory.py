"""A generator that remembers: what several requests have in common is read once.

Defences that read passages apart from each other read the same passages for every poison that an
adversary tries beside them; only the poison itself is new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustlab.attack.cache import AnswerCache
from robustlab.attack.items import kind_of
from robustlab.defense.decoding import Stepwise
from robustlab.models.target import Request, Response
from robustlab.rag.context import Generator

__all__ = ["Remembering"]


class Remembering:
    """A generator, its answers kept; implements :class:`~robustlab.defense.decoding.Stepwise`.

    An item of a request (a prompt with the length of its output, a prompt with an output) is read
    where it is not remembered. Its answer may then be that of another batch, equal but for
    rounding.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._cache = AnswerCache()

    @property
    def spec(self) -> str:
        """That of the generator."""
        return self._generator.spec

    @property
    def kind(self) -> str:
        """That of the generator."""
        return self._generator.kind

    @property
    def answers(self) -> frozenset[type[Request]]:
        """Those of the generator."""
        return self._generator.answers

    @property
    def label_names(self) -> tuple[str, ...]:
        """Empty, as the generator's."""
        return self._generator.label_names

    def answer(self, request: Request) -> Response:
        """What the generator answers, or answered when it was asked the same."""
        kind = kind_of(request, len(self.label_names))
        items = kind.items(request)
        known = {item: self._cache.get((kind.key, item)) for item in items}
        unknown = [item for item, answer in known.items() if answer is None]
        if unknown:
            fresh = kind.answers(self._generator.answer(kind.request(unknown)))
            for item, answer in zip(unknown, fresh, strict=True):
                known[item] = answer
                if kind.remembered:
                    self._cache.put((kind.key, item), answer)
        return kind.response([known[item] for item in items])

    def input_limit(self, max_new_tokens: int) -> int:
        """That of the generator."""
        return self._generator.input_limit(max_new_tokens)

    def count_tokens_many(self, texts: Sequence[str]) -> list[int]:
        """As the generator counts."""
        return self._generator.count_tokens_many(texts)

    def spell(self, prompts: Sequence[str], outputs: Sequence[Sequence[int]]) -> list[str]:
        """As the generator spells."""
        if not isinstance(self._generator, Stepwise):
            raise TypeError(f"{self.spec} spells no tokens")
        return self._generator.spell(prompts, outputs)

    def fingerprint(self) -> str:
        """That of the generator."""
        return self._generator.fingerprint()

    def describe(self) -> Mapping[str, Any]:
        """The generator."""
        return self._generator.describe()
