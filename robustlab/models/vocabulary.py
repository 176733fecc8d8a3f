"""What a white-box adversary may write: a tokenizer's tokens as text, beside their embeddings."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from robustlab.models.target import Vocabulary

if TYPE_CHECKING:
    import torch

__all__ = ["plain_ids", "read_vocabulary"]

# Words behind which tokens are tried. Long ones, because what merges with the end of a short one
# would not with that of another.
_CARRIERS = 3
_CARRIER_LETTERS = 5


def read_vocabulary(tokenizer: Any, layer: torch.nn.Embedding) -> Vocabulary:
    """The vocabulary of a model with a fast tokenizer.

    WordPiece, byte-level BPE and SentencePiece's kinds alike: spellings are found by decoding
    each token behind a word, and a token is usable if its spelling, put behind a word (or, where
    it continues words, behind one of a few or alone), is tokenised to this token again. A token
    that the tokenizer would never produce from text, such as a piece of a character's bytes, an
    accented letter where accents are stripped or ``[unused7]``, is not usable.

    Args:
        tokenizer: the fast tokenizer.
        layer: the input embedding layer; it may have more rows than the tokenizer has tokens,
            which are then never usable and spelled ``""``.
    """
    spellings, usable = _tokens(tokenizer, len(tokenizer), int(layer.weight.shape[0]))
    return Vocabulary(embeddings=_embeddings(layer), spellings=spellings, usable=usable)


@lru_cache(maxsize=2)
def _tokens(
    tokenizer: Any, size: int, rows: int
) -> tuple[tuple[str, ...], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Spellings and which tokens are usable: a second's work, the same for every copy of a model.

    ``size`` is the tokenizer's, which tokens may have been added to since.
    """
    spellings = _spellings(tokenizer, rows)
    return tuple(spellings), _usable(tokenizer, spellings)


def _embeddings(layer: torch.nn.Embedding) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the layer gives for each token, scaled where it scales: read-only."""
    import torch

    with torch.inference_mode():
        given = layer(torch.arange(layer.weight.shape[0], device=layer.weight.device))
    embeddings = given.float().cpu().numpy()
    embeddings.setflags(write=False)
    return np.asarray(embeddings)


def _spellings(tokenizer: Any, rows: int) -> list[str]:
    """What each token adds behind a word; "" for special tokens and rows without one."""
    core = tokenizer.backend_tokenizer
    special = set(tokenizer.all_special_ids)
    special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    tokens = [core.id_to_token(number) for number in range(rows)]
    ordinary = [i for i, token in enumerate(tokens) if token is not None and i not in special]
    spellings = [""] * rows
    if type(core.model).__name__ == "WordPiece":
        # Its decoder tidies punctuation, which hides whether a token begins a word.
        mark = core.model.continuing_subword_prefix
        for number in ordinary:
            token = tokens[number]
            spellings[number] = token[len(mark) :] if token.startswith(mark) else f" {token}"
        return spellings
    carrier = plain_ids(tokenizer, ["a"])[0]
    before = core.decode(carrier, skip_special_tokens=False)
    texts = core.decode_batch(
        [[*carrier, number] for number in ordinary], skip_special_tokens=False
    )
    for number, text in zip(ordinary, texts, strict=True):
        spelling = text.removeprefix(before)
        # What cannot be decoded is a piece of a character.
        spellings[number] = "" if "\ufffd" in spelling else spelling
    return spellings


def _usable(tokenizer: Any, spellings: list[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which tokens are read again from their spelling."""
    visible = [
        number
        for number, spelling in enumerate(spellings)
        if spelling.strip(" ") and spelling.isprintable()
    ]
    carriers = _carriers(spellings)
    trials = [
        (number, carrier)
        for number in visible
        for carrier in (carriers[:1] if spellings[number].startswith(" ") else ["", *carriers])
    ]
    texts = [*carriers, *(carrier + spellings[number] for number, carrier in trials)]
    ids = plain_ids(tokenizer, texts)
    before = dict(zip(carriers, ids, strict=False)) | {"": []}
    usable = np.zeros(len(spellings), dtype=bool)
    for (number, carrier), read in zip(trials, ids[len(carriers) :], strict=True):
        if read == [*before[carrier], number]:
            usable[number] = True
    usable.setflags(write=False)
    return usable


def _carriers(spellings: list[str]) -> list[str]:
    """A few plain words of the vocabulary with different last letters, the longest first."""
    letters = frozenset(string.ascii_lowercase)
    words = [
        spelling[1:]
        for spelling in spellings
        if len(spelling) > _CARRIER_LETTERS
        and spelling[0] == " "
        and letters.issuperset(spelling[1:])
    ]
    chosen: dict[str, str] = {}
    for word in sorted(words, key=lambda word: (-len(word), word)):
        chosen.setdefault(word[-1], word)
    return list(chosen.values())[:_CARRIERS] or ["a"]


def plain_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts without special tokens, in one call of the tokenizer."""
    batch = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids: list[list[int]] = batch["input_ids"]
    return ids
