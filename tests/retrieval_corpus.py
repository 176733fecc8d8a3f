"""A dozen passages that MiniLM tells apart, and encoders made once for all retrieval tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tiny import WORDS, bert_tokenizer

from robustlab.data.records import Corpus, Passage
from robustlab.retrieval import SentenceEncoder

PASSAGES = tuple(
    Passage(key, title, text)
    for key, title, text in (
        ("heron", "Grey heron", "The heron stands still in shallow water and spears fish."),
        ("otter", "Otter", "Otters swim under the ice and hunt crayfish along the river bank."),
        ("violin", "Violin", "A violin has four strings and is played with a bow of horsehair."),
        ("cello", "", "The cello is held between the knees and sounds an octave lower."),
        ("bread", "Sourdough", "Wild yeast raises the dough slowly while bacteria make it sour."),
        ("comet", "Comet", "A comet grows a tail of gas and dust when it nears the Sun."),
        ("tide", "Tides", "The pull of the Moon lifts the sea twice a day."),
        ("bee", "Honey bee", "A dance tells the other bees how far away the flowers are."),
        ("glass", "Glass", "Sand melts with soda and lime and cools into clear glass."),
        ("chess", "Chess", "A pawn that reaches the last rank becomes a queen."),
        ("cod", "", "Cod was dried on racks by the sea and traded across Europe."),
        (
            "lamp",
            "Lighthouse",
            "The keeper lit the lamp at dusk so that ships would see the rocks.",
        ),
    )
)

CORPUS = Corpus("dozen", PASSAGES)

ASKED = {
    "Which bird catches fish by standing still?": "heron",
    "How many strings does a violin have?": "violin",
    "What makes the sea rise and fall?": "tide",
    "What can a pawn turn into?": "chess",
}
"""Questions and the passage that answers each."""


@cache
def minilm() -> SentenceEncoder:
    """The built-in encoder in fp32 on the CPU; tests must not change it."""
    return SentenceEncoder.load("builtin:retriever", device="cpu", dtype="fp32")


def save_tiny(folder: Path, *modules: Any, pooling: str = "mean", **settings: Any) -> Path:
    """A random sentence encoder, 32 wide, as a sentence-transformers folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    tokenizer = bert_tokenizer()
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    plain = folder / "plain"
    BertModel(config).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    include_prompt = settings.pop("include_prompt", True)
    model = SentenceTransformer(
        modules=[
            Transformer(str(plain)),
            Pooling(32, pooling_mode=pooling, include_prompt=include_prompt),
            *modules,
        ],
        device="cpu",
        **settings,
    )
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def many_passages(count: int) -> tuple[Passage, ...]:
    """Passages of different random words of :data:`tiny.WORDS`, the same every time."""
    import numpy as np

    random = np.random.default_rng(3)
    return tuple(
        Passage(f"m{number}", "", " ".join(random.choice(WORDS, size=random.integers(3, 12))))
        for number in range(count)
    )
