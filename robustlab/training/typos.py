"""Typos: questions and pieces of the corpus read mistyped, for retrievers.

A misspelt word falls into scraps that say little of it, and only examples of many misspelt words
teach a reader of word pieces what they come from. Questions hold few words; the passages hold all
that can be found, need no labels, and are there when a retriever is put to use.

References:
    Zhuang & Zuccon 2022, CharacterBERT and Self-Teaching, doi:10.1145/3477495.3531951
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from robustlab.attack.perturbations import keyboard_typos
from robustlab.attack.words import Words
from robustlab.errors import UserError
from robustlab.training.embedding import Memoryless, divergence
from robustlab.training.inner import Backward, Update, check_options
from robustlab.training.tasks import Batch, Task

if TYPE_CHECKING:
    import torch

    from robustlab.training.retrievers import RetrieverTask

__all__ = ["Pieces", "Typos", "make", "mistyped", "pieces_of"]

_SHORTEST_MISTYPED = 4

_PIECE = 12
"""Words of a piece: about as many as a question has."""

_SHORTEST_PIECE = 4

_DIRECTION = 4.0
"""Weight of the angle to the clean piece's embedding beside the divergence, which is in nats."""


class Typos(Memoryless):
    """Typo-augmented questions with self-teaching (Zhuang & Zuccon 2022).

    The loss is that of the clean questions plus ``strength`` times what mistyped ones add: their
    own contrastive loss, and how far their distribution over the passages is from the one that the
    clean question has, which teaches and takes no gradient; and the loss of :class:`Pieces`, as
    many for each question as ``pieces`` says.
    """

    def __init__(self, strength: float, words: float = 0.4, pieces: int = 0) -> None:
        self.name = "typo"
        self.strength = strength
        self._words = words
        self._each = pieces
        self._pieces: Pieces | None = None

    def update(self, task: Task, batch: Batch, backward: Backward, *, seed: int) -> Update:
        """One pass on the clean questions, one on the mistyped ones and one on the pieces."""
        dice = random.Random(seed)
        texts = [mistyped(str(text), self._words, dice) for text in task.texts(batch)]
        clean, taught = task.loss(batch)
        noisy, learned = task.loss(task.perturbed(batch, texts))
        added = noisy + divergence(taught.detach(), learned)
        if self._each:
            added = added + self._loss_of_pieces(task, self._each * len(batch), dice)
        loss = clean + self.strength * added
        backward(loss)
        passes = 3 if self._each else 2
        return Update(loss.detach(), passes, passes)

    def _loss_of_pieces(self, task: Task, count: int, dice: random.Random) -> torch.Tensor:
        own: Any = task
        retriever: RetrieverTask = getattr(own, "student", own)
        if self._pieces is None:
            self._pieces = Pieces(retriever)
        return self._pieces.loss(retriever, count, self._words, dice)


class Pieces:
    """Pieces of all passages, and what the encoder made of them before it was trained.

    Read mistyped, a piece is to find the passages that it finds when read as it is, and to have the
    same embedding. What teaches is computed once and does not move.

    Args:
        task: its corpus gives the pieces, its encoder as it began teaches.

    Raises:
        UserError: no passage of the corpus has four words.
    """

    def __init__(self, task: RetrieverTask) -> None:
        import torch

        encoder = task.begun()
        contents = [passage.contents for passage in task.corpus.passages]
        self._texts = [piece for text in contents for piece in pieces_of(text)]
        if not self._texts:
            raise UserError(
                f"no passage of {task.corpus.name} has {_SHORTEST_PIECE} words to learn from"
            )
        self._passages = torch.from_numpy(encoder.encode(contents, role="document")).to(task.device)
        self._clean = torch.from_numpy(encoder.encode(self._texts, role="query")).to(task.device)

    def loss(
        self, task: RetrieverTask, count: int, share: float, dice: random.Random
    ) -> torch.Tensor:
        """The mean over ``count`` pieces drawn by ``dice``, that share of their words mistyped."""
        rows = [dice.randrange(len(self._texts)) for _ in range(count)]
        read = task.embedded([mistyped(self._texts[row], share, dice) for row in rows])
        clean = self._clean[rows]
        warmth = task.temperature
        apart = divergence(clean @ self._passages.T / warmth, read @ self._passages.T / warmth)
        return apart + _DIRECTION * (1 - (read * clean).sum(-1)).mean()


def pieces_of(text: str) -> list[str]:
    """The text in pieces of twelve words; a rest of fewer than four is left out."""
    words = text.split()
    cut = (words[start : start + _PIECE] for start in range(0, len(words), _PIECE))
    return [" ".join(piece) for piece in cut if len(piece) >= _SHORTEST_PIECE]


def mistyped(text: str, share: float, dice: random.Random) -> str:
    """The text with a slip on the keyboard in a share of its longer words, at least in one."""
    words = Words.of(text)
    able = [i for i, word in enumerate(words.words) if len(word) >= _SHORTEST_MISTYPED]
    if not able:
        return text
    for position in dice.sample(able, max(1, round(share * len(able)))):
        spellings = _slips(words.words[position])
        if spellings:
            words = words.replace(position, dice.choice(spellings))
    return words.text


@lru_cache(maxsize=8192)
def _slips(word: str) -> tuple[str, ...]:
    return tuple(spelling for spelling in dict.fromkeys(keyboard_typos(word)) if spelling != word)


def make(name: str, strength: float, task: Task, options: Mapping[str, Any]) -> Typos:
    """``typo`` for a task.

    Args:
        name: the method.
        strength: the weight of what is mistyped.
        task: what it will train.
        options: ``words``, the share of a text's words that are mistyped, and ``pieces``, how many
            pieces of the corpus are read for each question.

    Raises:
        UserError: an option that the method does not have, or a value that it does not allow.
    """
    check_options(name, options, {"words", "pieces"})
    if not 0 < float(options.get("words", 0.4)) <= 1:
        raise UserError("the share of the words that typo mistypes lies above 0, up to 1")
    if int(options.get("pieces", 0)) < 0:
        raise UserError(f"typo reads no pieces or more of them, not {options['pieces']}")
    return Typos(strength, **options)
