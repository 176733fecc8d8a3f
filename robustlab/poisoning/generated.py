"""Adversarial texts from a generator: what the published attack has a large language model write.

References:
    Zou et al. 2024, arXiv:2402.07867, section 4.1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from robustlab.errors import UserError
from robustlab.metrics.answers import contains_answer
from robustlab.models.target import Generate, Generations, Target
from robustlab.poisoning.campaign import PoisonItem
from robustlab.poisoning.texts import fill, load_templates

__all__ = ["write_texts"]

_MAX_NEW_TOKENS = 96


def write_texts(
    items: Sequence[PoisonItem], writer: Target, count: int, *, prompts: str = "write-passage"
) -> tuple[list[PoisonItem], int]:
    """The items with up to ``count`` texts that state their wrong answers, and how many in all.

    Each text comes from a prompt of its own (``attacks/templates/write-passage.txt``); one that
    does not contain the wrong answer is dropped.

    Raises:
        UserError: the target writes no text, there are fewer prompts than texts asked for, or not
            a single text contains its wrong answer.
    """
    if Generate not in writer.answers or writer.kind == "rag":
        raise UserError(
            f"{writer.spec} is a {writer.kind} and writes no text; name a seq2seq or a causal "
            "model with --adversary"
        )
    templates = load_templates(prompts)
    if count > len(templates):
        raise UserError(
            f"{count} texts a question are asked for, and {prompts} has {len(templates)} prompts"
        )
    asked = [
        fill(template, item.question.text, item.wrong)
        for item in items
        if item.wrong is not None
        for template in templates[:count]
    ]
    response = writer.answer(Generate(tuple(asked), _MAX_NEW_TOKENS))
    assert isinstance(response, Generations)
    texts = iter(response.texts)
    written = []
    for item in items:
        if item.wrong is None:
            written.append(item)
            continue
        wrong = item.wrong
        own = dict.fromkeys(" ".join(next(texts).split()) for _ in range(count))
        written.append(
            replace(item, texts=tuple(text for text in own if contains_answer(text, (wrong,))))
        )
    kept = sum(len(item.texts) for item in written)
    if not kept:
        raise UserError(
            f"none of the {len(asked)} texts that {writer.spec} wrote contains its wrong answer; "
            "name another model with --adversary, or leave it out to use templates"
        )
    return written, kept
