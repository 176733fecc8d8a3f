"""A tiny corpus in BEIR layout, and tiny readers and an encoder to train on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import bert_tokenizer, save_tiny

SUBJECTS = ("film", "book", "town", "river", "king", "queen", "bridge", "stone", "house", "tree")
COLOURS = ("red", "blue", "green", "dark", "old")


def write_corpus(folder: Path) -> Path:
    """Two passages a subject; the first says what colour it was. Train, validation and test."""
    (folder / "qrels").mkdir(parents=True)
    passages, questions = [], []
    relevant: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for number, subject in enumerate(SUBJECTS):
        colour = COLOURS[number % len(COLOURS)]
        passages.append(
            {"_id": f"p{number}", "title": "", "text": f"the {subject} was {colour} in the north"}
        )
        passages.append({"_id": f"o{number}", "title": "", "text": f"a {subject} saw the water"})
        questions.append({"_id": f"q{number}", "text": f"what was the {subject}",
                          "answers": [colour]})  # fmt: skip
        split = "train" if number < 6 else "validation" if number < 8 else "test"
        relevant[split].append(f"q{number}\tp{number}\t1")
    for name, rows in (("corpus", passages), ("queries", questions)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for split, rows in relevant.items():
        text = "query-id\tcorpus-id\tscore\n" + "\n".join(rows) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


def save_reader(kind: str, folder: Path) -> Path:
    """A tiny built-in reader with random weights."""
    import torch
    from safetensors.torch import save_file

    from robustlab.models.reader import ReaderConfig, new_reader

    tokenizer = bert_tokenizer()
    special = {
        f"{role}_token_id": getattr(tokenizer, f"{role}_token_id")
        for role in ("pad", "cls", "sep", "mask")
    }
    config = ReaderConfig(
        f"robustlab-{kind}",
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        decoder_init=(0,),
        **special,
    )
    torch.manual_seed(3)
    reader = new_reader(config)
    with torch.no_grad():
        for parameter in reader.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.25)
    folder.mkdir(parents=True)
    config.save(folder / "config.json")
    save_file(dict(reader.state_dict()), folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    return folder


def save_generator(name: str, folder: Path) -> Path:
    """``builtin-seq2seq``, ``builtin-causal`` or a tiny Hugging Face model; 512 tokens of room."""
    from transformers import AutoTokenizer

    if name.startswith("builtin-"):
        return save_reader(name.removeprefix("builtin-"), folder)
    more = {"max_position_embeddings": 512} if name == "llama" else {}
    save_tiny(name, folder, **more)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    return folder


def make_task(kind: str, spec: Path, data: Path, **plan: Any) -> Any:
    """The task of a model on a corpus, on the CPU."""
    import torch

    from robustlab.training.families import TaskPlan, load_task

    settings = {"batch_size": 4, **plan}
    return load_task(kind, TaskPlan(str(spec), str(data), torch.device("cpu"), **settings))
