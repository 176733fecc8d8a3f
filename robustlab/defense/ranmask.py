"""RanMASK: a classifier whose answer is voted on by copies of the text with words masked.

Reference: Zeng et al. 2021, *Certified Robustness to Text Adversarial Attacks by Randomized
[MASK]*, arXiv:2105.03743, which carries randomised ablation (Levine & Feizi 2020,
arXiv:1911.09272) over to words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import content_hash
from robustlab.errors import UserError
from robustlab.metrics.intervals import lower_bound
from robustlab.models.target import (
    Predict,
    Predictions,
    Request,
    Response,
    Target,
    TextInput,
)

__all__ = ["MaskCertificate", "RanMask", "RanMaskTarget", "changed_share"]

_WORD = re.compile(r"\S+")

# Masked copies of a request that are built and asked for at a time.
_COPIES = 4096


@dataclass(frozen=True, slots=True)
class MaskCertificate:
    """How many words of a text may be replaced without the label changing.

    ``radius`` is the smaller of two: ``smoothed``, of the vote over *all* ways of masking, holds
    with the stated confidence (Monte Carlo); ``voted``, of the vote over the copies that are used,
    holds for certain. A radius of -1 means that not even the text itself is certain.
    """

    label: int
    words: int
    smoothed: int
    voted: int
    share: float
    """The lower confidence bound of the label's share among all ways of masking."""

    @property
    def radius(self) -> int:
        """What holds in both senses."""
        return min(self.smoothed, self.voted)


class RanMask:
    """The defence: wraps a classifier in a :class:`RanMaskTarget`.

    Args:
        name: what it is called.
        kept: the share of the words that a copy keeps, at least one word.
        copies: how many copies vote.
        samples: how many more a certificate draws.
        error: the probability with which a certificate's Monte Carlo part may be wrong.
        mask: what stands for a masked word; the model's mask token, or nothing.
        seed: of the masks.
    """

    def __init__(
        self, name: str, *, kept: float, copies: int, samples: int, error: float, mask: str,
        seed: int,
    ) -> None:  # fmt: skip
        self.name = name
        self.kept = kept
        self.copies = copies
        self.samples = samples
        self.error = error
        self.mask = mask
        self.seed = seed

    def describe(self) -> Mapping[str, Any]:
        """Name and numbers."""
        return {
            "name": self.name,
            "kind": "ranmask",
            "kept": self.kept,
            "copies": self.copies,
            "samples": self.samples,
            "error": self.error,
            "mask": self.mask,
            "seed": self.seed,
        }

    def fingerprint(self) -> str:
        """Hash of what decides its answers."""
        return content_hash(map(str, self.describe().values()))

    def wrap(self, target: Target) -> RanMaskTarget:
        """The smoothed classifier."""
        if Predict not in target.answers:
            raise UserError(
                f"the defence {self.name} is for classifiers; {target.spec} is a {target.kind} and "
                "cannot take it"
            )
        return RanMaskTarget(target, self)


class RanMaskTarget:
    """A classifier that answers Predict by the vote of masked copies.

    A text's words are what stands between white space, those of both texts of a pair counted
    together. A copy keeps k = max(1, round(``kept`` · h)) of the h words. Which ones depends on h
    and the seed alone, never on the words: so the same copies of a text vote before and after some
    of its words were replaced, and what a replaced word can change can be counted.

    The probabilities of a prediction are the shares of the votes. Gradients are not answered: a
    vote has none.
    """

    kind = "classifier"

    def __init__(self, target: Target, defense: RanMask) -> None:
        self.undefended = target
        self.defenses = (defense,)
        self._defense = defense

    @property
    def defense(self) -> RanMask:
        """What is in front of the classifier."""
        return self._defense

    @property
    def spec(self) -> str:
        """That of the classifier."""
        return self.undefended.spec

    @property
    def answers(self) -> frozenset[type[Request]]:
        """Predict."""
        return frozenset({Predict})

    @property
    def label_names(self) -> tuple[str, ...]:
        """Those of the classifier."""
        return self.undefended.label_names

    def answer(self, request: Request) -> Response:
        """Vote.

        Raises:
            TypeError: a request that is not Predict.
        """
        if not isinstance(request, Predict):
            raise TypeError(f"{self.spec} ({self.kind}) does not answer {type(request).__name__}")
        votes = self._votes(
            request.texts, [self.masks(len(_words(text))) for text in request.texts]
        )
        shares = votes / np.maximum(1, votes.sum(axis=1, keepdims=True))
        return Predictions(shares.astype(np.float32))

    def fingerprint(self) -> str:
        """SHA-256 over the classifier's and the defence's."""
        return content_hash([self.undefended.fingerprint(), self._defense.fingerprint()])

    def describe(self) -> Mapping[str, Any]:
        """The classifier, and the defence with its numbers."""
        return {**self.undefended.describe(), "defenses": [dict(self._defense.describe())]}

    def masks(self, words: int) -> NDArray[np.bool_]:
        """What the copies of a text of so many words keep, (copies, words)."""
        return _masks(words, self._kept(words), self._defense.copies, (self._defense.seed, words))

    def certify(self, texts: Sequence[TextInput]) -> list[MaskCertificate]:
        """A certificate for each text, against replacing some of its words by any others.

        *Voted.* Let N copies vote, v_c for the label and v_o for any other. Replacing the words of
        a set A changes only copies that keep a word of A: at most a(A) of them, where
        a(A) ≤ Σ over A of the copies that keep that word, so at most the sum a of the |A| largest
        of these counts. The label still wins if v_c − a > v_o + a for every o.

        *Smoothed* (the paper's theorem with its β at 1, because the β estimated there is no bound
        for the worst choice of words). Let p be the share of the label over all ways of keeping k
        of h words. Replacing d words changes at most a share Δ = 1 − C(h − d, k) / C(h, k) of
        these, so that the label keeps more than half if p − Δ > ½. For p stands its lower bound by
        Clopper & Pearson from copies drawn for the certificate, not those that chose the label.
        """
        defense = self._defense
        counts = [len(_words(text)) for text in texts]
        voted = self._votes(texts, [self.masks(words) for words in counts])
        labels = voted.argmax(axis=1)
        drawn = self._votes(
            texts,
            [
                _masks(words, self._kept(words), defense.samples, (defense.seed, words, number + 1))
                for number, words in enumerate(counts)
            ],
        )
        found = []
        for row, (words, label) in enumerate(zip(counts, labels.tolist(), strict=True)):
            share = lower_bound(int(drawn[row, label]), defense.samples, defense.error)
            smoothed = self._smoothed_radius(share, words)
            radius = self._voted_radius(voted[row], label, words)
            found.append(MaskCertificate(label, words, smoothed, radius, share))
        return found

    def _smoothed_radius(self, share: float, words: int) -> int:
        kept = self._kept(words)
        return _radius(words, lambda d: share - changed_share(words, kept, d) > 0.5)

    def _voted_radius(self, votes: NDArray[np.int64], label: int, words: int) -> int:
        keeping = np.sort(self.masks(words).sum(axis=0))[::-1]
        lead = int(votes[label]) - int(np.delete(votes, label).max())
        return _radius(words, lambda d: lead > 2 * int(keeping[:d].sum()))

    def _kept(self, words: int) -> int:
        return min(words, max(1, round(self._defense.kept * words)))

    def _votes(
        self, texts: Sequence[TextInput], masks: Sequence[NDArray[np.bool_]]
    ) -> NDArray[np.int64]:
        """Votes (texts, classes) of the copies of each text."""
        votes = np.zeros((len(texts), len(self.label_names)), dtype=np.int64)
        copies: list[TextInput] = []
        owners: list[int] = []
        for row, (text, kept) in enumerate(zip(texts, masks, strict=True)):
            copies += [_masked(text, keep, self._defense.mask) for keep in kept.tolist()]
            owners += [row] * len(kept)
            if len(copies) >= _COPIES or row == len(texts) - 1:
                # Copies of short texts repeat; each is read once.
                unique = {copy: place for place, copy in enumerate(dict.fromkeys(copies))}
                response = self.undefended.answer(Predict(tuple(unique)))
                assert isinstance(response, Predictions)
                labels = response.labels[[unique[copy] for copy in copies]]
                np.add.at(votes, (np.array(owners), labels), 1)
                copies, owners = [], []
        return votes


def changed_share(words: int, kept: int, replaced: int) -> float:
    """Δ: the share of all ways to keep ``kept`` of ``words`` that keep a replaced word.

    Δ = 1 − C(h − d, k) / C(h, k), the probability that k words drawn from h hit one of d.
    """
    return 1 - math.comb(words - replaced, kept) / math.comb(words, kept)


def _radius(words: int, safe: Callable[[int], bool]) -> int:
    """The largest number of replaced words, up to all, that is safe; -1 if none is."""
    radius = -1
    while radius < words and safe(radius + 1):
        radius += 1
    return radius


def _words(text: TextInput) -> list[str]:
    return [word for part in _parts(text) for word in part.split()]


def _parts(text: TextInput) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _masked(text: TextInput, keep: Sequence[bool], mask: str) -> TextInput:
    """The text with every word that is not kept replaced, white space as it is."""
    flags = iter(keep)
    parts = [
        _WORD.sub(lambda match: match[0] if next(flags) else mask, part) for part in _parts(text)
    ]
    return parts[0] if isinstance(text, str) else (parts[0], parts[1])


@lru_cache(maxsize=1024)
def _masks(words: int, kept: int, copies: int, seed: tuple[int, ...]) -> NDArray[np.bool_]:
    """(copies, words), ``kept`` true in each row, every choice as probable as any other."""
    generator = np.random.default_rng([abs(part) for part in seed])
    masks = np.zeros((copies, words), dtype=bool)
    order = generator.random((copies, words)).argsort(axis=1)[:, :kept]
    np.put_along_axis(masks, order, True, axis=1)
    masks.setflags(write=False)
    return masks
