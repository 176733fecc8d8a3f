"""Tokens as text: what an adversary can write is what the tokenizer reads again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_models_classifier import target_of
from test_models_generators import in_memory
from tiny import WORDS, tiny_tokenizer

from robustlab.models.target import Vocabulary, WhiteBox
from robustlab.models.vocabulary import read_vocabulary


def word_pieces() -> Any:
    """As BERT's: lower case, accents stripped, split at punctuation, pieces marked."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, "[unused0]", *WORDS, "##ing", "##s", "##é", "é", "!", "...", "ing", "中"]
    core = Tokenizer(models.WordPiece({t: n for n, t in enumerate(tokens)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=core, **dict(zip(names, special, strict=True)))


def byte_fallback_pieces() -> Any:
    """As Llama 2's: BPE over the whole text with marked spaces, and bytes for what is unknown."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", *"abcdefghijklmnopqrstuvwxyz!"]
    merges: list[tuple[str, str]] = []
    for word in ("▁the", "▁town", "▁question", "ing", "ed"):
        for cut in range(1, len(word)):
            if (pair := (word[:cut], word[cut])) not in merges:
                merges.append(pair)
                tokens.append(word[: cut + 1])
    core = Tokenizer(
        models.BPE(
            {token: number for number, token in enumerate(tokens)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "word-pieces": word_pieces,
    "byte-fallback": byte_fallback_pieces,
    "gpt2": lambda: tiny_tokenizer("gpt2"),
    "t5": lambda: tiny_tokenizer("t5"),
    "roberta": lambda: tiny_tokenizer("roberta"),
}


def vocabulary(tokenizer: Any, spare_rows: int = 0) -> Vocabulary:
    torch.manual_seed(0)
    return read_vocabulary(tokenizer, torch.nn.Embedding(len(tokenizer) + spare_rows, 4))


def spelled(tokenizer: Any, token: str) -> tuple[str, bool]:
    number = tokenizer.convert_tokens_to_ids(token)
    found = vocabulary(tokenizer)
    return found.spellings[number], bool(found.usable[number])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_are_read_again_where_they_are_written(name: str) -> None:
    """A sentence of tokens that begin words is that sentence, token for token."""
    tokenizer = TOKENIZERS[name]()
    found = vocabulary(tokenizer)
    begins = np.flatnonzero(found.begins_word).tolist()
    assert len(begins) >= 3
    # Behind a word of its own, for what is first in a text may be read otherwise.
    text = "the" + "".join(found.spellings[number] for number in begins)
    before = tokenizer("the", add_special_tokens=False)["input_ids"]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == [*before, *begins]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_and_spare_rows_are_not_usable(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    found = vocabulary(tokenizer, spare_rows=3)
    assert len(found.spellings) == len(found.usable) == len(tokenizer) + 3
    for number in (*tokenizer.all_special_ids, *range(len(tokenizer), len(tokenizer) + 3)):
        assert found.spellings[number] == ""
        assert not found.usable[number]
    assert all(spelling.strip() for spelling in np.array(found.spellings)[found.usable])


def test_word_pieces() -> None:
    tokenizer = word_pieces()
    assert spelled(tokenizer, "town") == (" town", True)
    assert spelled(tokenizer, "##ing") == ("ing", True)
    assert spelled(tokenizer, "ing") == (" ing", True)
    assert spelled(tokenizer, "!") == (" !", True)
    assert spelled(tokenizer, "中") == (" 中", True)
    assert spelled(tokenizer, "...") == (" ...", False)  # read as three
    assert spelled(tokenizer, "é") == (" é", False)  # its accent is stripped
    assert spelled(tokenizer, "##é") == ("é", False)
    assert spelled(tokenizer, "[unused0]") == (" [unused0]", False)


def test_byte_level_tokens() -> None:
    tokenizer = tiny_tokenizer("gpt2")
    assert spelled(tokenizer, "Ġtown") == (" town", True)
    assert spelled(tokenizer, "Ġtow") == (" tow", True)
    assert spelled(tokenizer, "x") == ("x", True)
    assert spelled(tokenizer, "Ċ") == ("\n", False)  # not visible
    assert spelled(tokenizer, "Ġ") == (" ", False)
    assert spelled(tokenizer, "Ã") == ("", False)  # half a character


def test_sentence_pieces() -> None:
    tokenizer = tiny_tokenizer("t5")
    assert spelled(tokenizer, "▁town") == (" town", True)
    assert spelled(tokenizer, "x") == ("x", True)
    assert spelled(tokenizer, "▁")[1] is False


def test_pieces_with_byte_fallback() -> None:
    tokenizer = byte_fallback_pieces()
    assert spelled(tokenizer, "▁town") == (" town", True)
    assert spelled(tokenizer, "ing") == ("ing", True)
    assert spelled(tokenizer, "ed") == ("ed", True)
    assert spelled(tokenizer, "<0x61>") == ("a", False)  # the letter has a token of its own
    assert spelled(tokenizer, "<0x23>") == ("#", True)  # this one has not
    assert spelled(tokenizer, "<0xE4>") == ("", False)


@pytest.mark.parametrize("name", ["bert", "albert", "gpt2", "bart", "t5"])
def test_targets_tell_their_vocabulary(name: str) -> None:
    """Embeddings are what a gradient is taken at: BART scales its own."""
    target: Any = target_of(name) if name in ("bert", "albert") else in_memory(name)
    assert isinstance(target, WhiteBox)
    found = target.vocabulary()
    assert target.vocabulary() is found
    model = target._model if name in ("bert", "albert") else target._backend.module
    scale = 32**0.5 if name == "bart" else 1.0
    expected = scale * model.get_input_embeddings().weight.numpy()
    np.testing.assert_allclose(found.embeddings, expected, rtol=1e-6)
    assert found.embeddings.dtype == np.float32
    assert found.begins_word.sum() >= len(WORDS)
    with pytest.raises(ValueError, match="read-only"):
        found.embeddings[0, 0] = 1


def test_copies_of_a_model_share_what_the_tokenizer_alone_decides() -> None:
    tokenizer = TOKENIZERS["word-pieces"]()
    layer = torch.nn.Embedding(len(tokenizer) + 2, 4)
    first = read_vocabulary(tokenizer, layer)
    with torch.no_grad():
        layer.weight.add_(1)
    second = read_vocabulary(tokenizer, layer)
    assert second.spellings is first.spellings
    assert second.usable is first.usable
    assert np.allclose(second.embeddings, first.embeddings + 1)
    # A token that was added since is not missed.
    tokenizer.add_tokens(["harbour"])
    number = tokenizer.convert_tokens_to_ids("harbour")
    assert first.spellings[number] == ""
    assert read_vocabulary(tokenizer, layer).spellings[number].strip() == "harbour"
