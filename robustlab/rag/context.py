"""Which of the retrieved passages fit into a prompt.

Passages are taken whole, best first, for as long as they fit; the first that does not fit is
dropped with all behind it, so that a passage never displaces one that was ranked higher. Only a
best passage that does not fit by itself is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from robustlab.data.records import Passage
from robustlab.errors import UserError
from robustlab.models.prompt import PromptTemplate
from robustlab.models.target import Target

__all__ = ["Context", "Generator", "build_contexts"]


@runtime_checkable
class Generator(Target, Protocol):
    """A target that writes text after a prompt and says how much it can read."""

    def input_limit(self, max_new_tokens: int) -> int:
        """Longest prompt in tokens, special tokens included, with room for the output."""

    def count_tokens_many(self, texts: Sequence[str]) -> list[int]:
        """The length of each text as a prompt, special tokens included."""


@dataclass(frozen=True, slots=True)
class Context:
    """A prompt that fits, and what became of the passages.

    ``passages`` are those in the prompt, best first, as they stand there (the first may be cut);
    ``dropped`` the rest. Together they are the passages given, in their order.
    """

    prompt: str
    passages: tuple[Passage, ...]
    dropped: tuple[Passage, ...]


def build_contexts(
    template: PromptTemplate,
    generator: Generator,
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    *,
    output_tokens: Sequence[int],
) -> list[Context]:
    """One prompt for each question, with as many of its passages as fit.

    Token counts are those of the finished prompts, so nothing is left to estimates; each of the
    few calls of the tokenizer takes the whole batch.

    Args:
        template: the form of the prompt.
        generator: whose tokens and limit count.
        questions: the questions, not blank.
        passages: for each question its passages, best first.
        output_tokens: for each question the room to leave for its output.

    Raises:
        UserError: a question that does not fit even without a passage.
    """
    prompts = [
        template.render(question, ranked)
        for question, ranked in zip(questions, passages, strict=True)
    ]
    limits = [generator.input_limit(tokens) for tokens in output_tokens]
    lengths = generator.count_tokens_many(prompts) if prompts else []
    long = [i for i, length in enumerate(lengths) if length > limits[i]]
    shortened = _shorten(
        template,
        generator,
        [questions[i] for i in long],
        [passages[i] for i in long],
        [limits[i] for i in long],
    )
    fitted = dict(zip(long, shortened, strict=True))
    return [
        fitted[i] if i in fitted else Context(prompt, tuple(passages[i]), ())
        for i, prompt in enumerate(prompts)
    ]


def _shorten(
    template: PromptTemplate,
    generator: Generator,
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    limits: Sequence[int],
) -> list[Context]:
    """Contexts of questions whose passages do not all fit."""
    kept = _first_guess(template, generator, questions, passages, limits)
    done: dict[int, Context] = {}
    pending = list(range(len(questions)))
    while pending:
        prompts = [template.render(questions[i], passages[i][: kept[i]]) for i in pending]
        lengths = generator.count_tokens_many(prompts)
        over = []
        for i, prompt, length in zip(pending, prompts, lengths, strict=True):
            if length <= limits[i]:
                whole, rest = passages[i][: kept[i]], passages[i][kept[i] :]
                done[i] = Context(prompt, tuple(whole), tuple(rest))
            elif kept[i] == 0:
                raise UserError(
                    f"the question {_beginning(questions[i])!r} takes {length} tokens with its "
                    f"prompt and no passage, but {generator.spec} has room for {limits[i]} beside "
                    "the answer; shorten the question or the prompt"
                )
            else:
                kept[i] -= 1
                over.append(i)
        pending = over
    cut = [i for i in range(len(questions)) if not done[i].passages and passages[i]]
    beginnings = _cut(template, generator, questions, passages, cut, limits)
    for i, text in zip(cut, beginnings, strict=True):
        if text:
            best = replace(passages[i][0], text=text)
            prompt = template.render(questions[i], [best])
            done[i] = Context(prompt, (best,), tuple(passages[i][1:]))
    return [done[i] for i in range(len(questions))]


def _first_guess(
    template: PromptTemplate,
    generator: Generator,
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    limits: Sequence[int],
) -> list[int]:
    """How many passages should fit, from the sum of the lengths of the parts.

    A passage that stands in many prompts is counted once. The sum leaves out what joins the
    parts, so that the guess is hardly ever too low, and counting the whole prompt corrects one
    that is too high.
    """
    if not questions:
        return []
    frames = [template.render(question, ()) for question in questions]
    blocks = [
        [template.render_passage(passage, number) for number, passage in enumerate(ranked, 1)]
        for ranked in passages
    ]
    unique = list(dict.fromkeys(block for ranked in blocks for block in ranked))
    special, *counts = generator.count_tokens_many(["", *frames, *unique])
    size = dict(zip(unique, counts[len(frames) :], strict=True))
    kept = []
    for limit, frame, ranked in zip(limits, counts, blocks, strict=False):
        room = limit - frame
        fitting = 0
        for block in ranked:
            room -= size[block] - special
            if room < 0:
                break
            fitting += 1
        kept.append(fitting)
    return kept


def _cut(
    template: PromptTemplate,
    generator: Generator,
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    rows: Sequence[int],
    limits: Sequence[int],
) -> list[str]:
    """The longest beginning of each row's best passage that fits; may be empty.

    Bisection over the length in characters, all rows in step.
    """
    texts = {i: passages[i][0].text for i in rows}
    low = dict.fromkeys(rows, 0)  # fits, as the prompt without a passage does
    high = {i: len(text) for i, text in texts.items()}  # does not fit
    best = dict.fromkeys(rows, "")
    while pending := [i for i in rows if high[i] - low[i] > 1]:
        middle = {i: (low[i] + high[i]) // 2 for i in pending}
        tried = {i: _whole_words(texts[i], middle[i]) for i in pending}
        prompts = [
            template.render(questions[i], [replace(passages[i][0], text=tried[i])]) for i in pending
        ]
        for i, length in zip(pending, generator.count_tokens_many(prompts), strict=True):
            if length <= limits[i]:
                low[i], best[i] = middle[i], tried[i]
            else:
                high[i] = middle[i]
    return [best[i] for i in rows]


def _whole_words(text: str, end: int) -> str:
    """The text up to ``end``, without a word begun there unless nearly all is that word."""
    shown = text[:end]
    if not text[end].isspace():
        border = max(shown.rfind(space) for space in (" ", "\n", "\t"))
        if 2 * border > end:
            shown = shown[:border]
    return shown.rstrip()


def _beginning(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
