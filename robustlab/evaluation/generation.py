"""Quality of answers: against the right ones, and as the generator itself sees those.

A question whose corpus states no answers to it is unanswerable, as in SQuAD 2: a refusal
(:func:`~robustlab.metrics.grounding.is_refusal`) counts as the empty, right answer. Where no
question of a corpus has answers they are simply unknown, and nothing here applies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from robustlab.data.records import Passage, Question
from robustlab.evaluation._chunks import chunks
from robustlab.metrics.answers import exact_match, token_f1
from robustlab.metrics.grounding import is_refusal
from robustlab.metrics.intervals import Estimate, mean_estimate, rate
from robustlab.metrics.text import corpus_bleu, perplexity, rouge
from robustlab.models.prompt import PromptTemplate
from robustlab.models.target import Generate, Generations, Score, Scores
from robustlab.rag.context import Generator, build_contexts

__all__ = [
    "AnswerRecord",
    "Written",
    "generation_outcomes",
    "judge_answer",
    "score_gold",
    "summarise_answers",
]

AnswerRecord = dict[str, Any]
"""One outcome, or the part of it that another function adds to."""


class Written(NamedTuple):
    """An answer as a generator wrote it; see :class:`~robustlab.models.target.Generations`."""

    text: str
    log_prob: float
    tokens: int


_ROUGE = ("rouge1", "rouge2", "rougeL")


def generation_outcomes(
    generator: Generator,
    template: PromptTemplate,
    questions: Sequence[Question],
    passages: Mapping[str, Passage],
    *,
    max_new_tokens: int,
) -> Iterator[AnswerRecord]:
    """One outcome for each question, answered with its gold passages in the prompt.

    ``passages`` holds the corpus by id. All gold passages of a question are given, in the order
    of the qrels, as far as they fit.
    """
    for chunk in chunks(questions):
        contexts = build_contexts(
            template,
            generator,
            [question.text for question in chunk],
            [[passages[key] for key in question.gold if key in passages] for question in chunk],
            output_tokens=[max_new_tokens] * len(chunk),
        )
        prompts = tuple(context.prompt for context in contexts)
        generated = generator.answer(Generate(prompts, max_new_tokens))
        assert isinstance(generated, Generations)
        written = [
            Written(text, float(log_prob), int(tokens))
            for text, log_prob, tokens in zip(
                generated.texts, generated.log_probs, generated.tokens, strict=True
            )
        ]
        scored = score_gold(generator, prompts, chunk, written, max_new_tokens)
        for question, context, answer, gold in zip(chunk, contexts, written, scored, strict=True):
            yield {
                "id": question.id,
                "question": question.text,
                **judge_answer(question, answer.text),
                "log_prob": answer.log_prob,
                "tokens": answer.tokens,
                **gold,
                "gold": list(question.gold),
                "in_context": [passage.id for passage in context.passages],
            }


def judge_answer(question: Question, prediction: str) -> AnswerRecord:
    """The prediction beside the right answers, with its scores."""
    refused = is_refusal(prediction)
    counted = "" if refused and not question.answers else prediction
    record: AnswerRecord = {
        "answers": list(question.answers),
        "prediction": prediction,
        "exact_match": exact_match(counted, question.answers),
        "f1": token_f1(counted, question.answers),
        "refused": refused,
    }
    if question.answers:
        scores = rouge(prediction, question.answers)
        record |= {name: getattr(scores, name) for name in _ROUGE}
    return record


def score_gold(
    generator: Generator,
    prompts: Sequence[str],
    questions: Sequence[Question],
    written: Sequence[Written],
    max_new_tokens: int,
) -> list[AnswerRecord]:
    """``gold_log_prob`` and ``gold_tokens`` of each question's first answer after its prompt.

    Empty for a question without answers, and where the answer is so long that the generator
    could not have written it (more than ``max_new_tokens``, counted as a prompt is). Where the
    generator wrote that very answer its log-probability is known and not computed again; where it
    does not answer Score, all are empty.
    """
    records: list[AnswerRecord] = [{} for _ in prompts]
    if Score not in generator.answers:
        return records
    gold = {i: question.answers[0] for i, question in enumerate(questions) if question.answers}
    lengths = dict(zip(gold, generator.count_tokens_many(list(gold.values())), strict=True))
    fitting = [i for i in gold if lengths[i] < max_new_tokens]
    unknown = []
    for i in fitting:
        if written[i].text == gold[i]:
            records[i] = {
                "gold_log_prob": written[i].log_prob,
                "gold_tokens": written[i].tokens,
            }
        else:
            unknown.append(i)
    if unknown:
        scores = generator.answer(
            Score(tuple(prompts[i] for i in unknown), tuple(gold[i] for i in unknown))
        )
        assert isinstance(scores, Scores)
        for i, log_prob, tokens in zip(unknown, scores.log_probs, scores.tokens, strict=True):
            records[i] = {"gold_log_prob": float(log_prob), "gold_tokens": int(tokens)}
    return records


def summarise_answers(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Exact match, F1, BLEU, ROUGE, perplexity and refusal rate.

    ``bleu`` (0 to 100) and ``perplexity`` are figures of the whole set: no mean over questions
    and so without an interval (``low`` and ``high`` are ``nan``). ``bleu``, ``rouge…`` and
    ``perplexity`` are over the questions that have answers, ``perplexity`` over those of them
    whose first answer was scored.
    """
    answered = [outcome for outcome in outcomes if outcome["answers"]]
    scored = [outcome for outcome in answered if "gold_log_prob" in outcome]
    estimates = {
        "exact_match": rate(sum(bool(o["exact_match"]) for o in outcomes), len(outcomes)),
        "f1": mean_estimate([o["f1"] for o in outcomes]),
    }
    if answered:
        bleu = corpus_bleu([o["prediction"] for o in answered], [o["answers"] for o in answered])
        estimates["bleu"] = _figure(bleu, len(answered))
        for name in _ROUGE:
            estimates[name] = mean_estimate([o[name] for o in answered])
    if scored:
        found = perplexity(
            sum(o["gold_log_prob"] for o in scored), sum(o["gold_tokens"] for o in scored)
        )
        estimates["perplexity"] = _figure(found, len(scored))
    estimates["refusal_rate"] = rate(sum(bool(o["refused"]) for o in outcomes), len(outcomes))
    return estimates


def _figure(value: float, n: int) -> Estimate:
    return Estimate(value, float("nan"), float("nan"), n)
