"""The distribution of the next token: what step-by-step decoding is made of."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from tiny import GENERATORS, TEXTS, save_tiny

from robustlab.models._generator import GeneratorTarget
from robustlab.models.load import load_target
from robustlab.models.reader import ReaderConfig, new_reader
from robustlab.models.target import Generate, Generations, Next, NextTokens

NEW = 5


def read(name: str, folder: Path) -> GeneratorTarget:
    """A tiny model that ends some outputs by itself; the readers have a tokenizer of their own."""
    if name in ("seq2seq", "causal"):
        return _reader(name, folder)
    target = load_target(str(save_tiny(name, folder)), device="cpu", dtype="fp32", batch_tokens=200)
    assert isinstance(target, GeneratorTarget)
    return target


def _reader(kind: str, folder: Path) -> GeneratorTarget:
    from safetensors.torch import save_file
    from tiny import bert_tokenizer

    tokenizer = bert_tokenizer()
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in
               ("pad", "cls", "sep", "mask")}  # fmt: skip
    config = ReaderConfig(
        f"robustlab-{kind}",
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
        max_position_embeddings=40,
        decoder_init=(0,),
        **special,
    )
    torch.manual_seed(5)
    reader = new_reader(config)
    for parameter in reader.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    config.save(folder / "config.json")
    save_file(dict(reader.state_dict()), folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    config.save(folder / "config.json")
    target = load_target(str(folder), device="cpu", dtype="fp32", batch_tokens=200)
    assert isinstance(target, GeneratorTarget)
    return target


def after(
    target: GeneratorTarget, prompts: tuple[str, ...], outputs: list[list[int]]
) -> NextTokens:
    return cast(NextTokens, target.answer(Next(prompts, tuple(map(tuple, outputs)))))


@pytest.mark.parametrize("name", [*GENERATORS, "seq2seq", "causal"])
def test_taking_the_best_token_again_and_again_is_what_generate_does(
    name: str, tmp_path: Path
) -> None:
    target = read(name, tmp_path)
    made = cast(Generations, target.answer(Generate(TEXTS, NEW)))
    outputs: list[list[int]] = [[] for _ in TEXTS]
    total, open_rows = np.zeros(len(TEXTS)), [True] * len(TEXTS)
    for _ in range(NEW):
        found = after(target, TEXTS, outputs)
        assert found.log_probs.dtype == np.float32
        np.testing.assert_allclose(np.exp(found.log_probs).sum(1), 1, atol=1e-4)
        for row, best in enumerate(found.log_probs.argmax(1).tolist()):
            if open_rows[row]:
                total[row] += found.log_probs[row, best]
                open_rows[row] = best not in found.ends
                if open_rows[row]:
                    outputs[row].append(best)
    assert target.spell(TEXTS, outputs) == list(made.texts)
    np.testing.assert_allclose(total, made.log_probs, atol=1e-3)


@pytest.mark.parametrize("name", ["t5", "bart", "gpt2", "llama", "seq2seq", "causal"])
def test_a_distribution_does_not_depend_on_the_batch(name: str, tmp_path: Path) -> None:
    target = read(name, tmp_path)
    outputs = [[7, 9, 8], [], [11], [6, 6], [10, 12, 7, 9]]
    together = after(target, TEXTS, outputs).log_probs
    for row, output in enumerate(outputs):
        alone = after(target, TEXTS[row : row + 1], [output]).log_probs
        np.testing.assert_allclose(np.exp(alone[0]), np.exp(together[row]), atol=1e-5)


def test_prompts_and_outputs_are_paired(tmp_path: Path) -> None:
    target = read("t5", tmp_path)
    with pytest.raises(ValueError, match="2 prompts are paired with 1 outputs"):
        target.answer(Next(("red", "blue"), ((),)))
    assert len(after(target, (), []).log_probs) == 0
