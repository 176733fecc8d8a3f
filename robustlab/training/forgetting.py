"""What training on one task cost elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from robustlab.data.labelled import load_labelled
from robustlab.data.records import LabelledExample
from robustlab.data.splits import choose_split, sample
from robustlab.errors import UserError
from robustlab.metrics.answers import exact_match
from robustlab.models.labels import align_labels
from robustlab.models.target import Generate, Generations, Predict, Predictions
from robustlab.training.families import TaskPlan

if TYPE_CHECKING:
    from robustlab.models.target import Target

__all__ = ["probe"]

_EXAMPLES = 500
_FITTED = 1000
_RIDGE = 1.0
_MAX_NEW_TOKENS = 24


def probe(spec: str, data: str, plan: TaskPlan) -> float:
    """How well a model does on other data, in [0, 1].

    A classifier: its accuracy where the data has its classes; else, for another task, the accuracy
    of a linear layer that is fitted (ridge regression on the training split) on what its first
    token's last hidden state is, which says what its features still know. A reader: exact match
    with the gold passages in the prompt. A retriever: recall@10 over the corpus. On at most 500
    examples, the same for every model.

    Args:
        spec: the model.
        data: labelled data, or a corpus.
        plan: of the training; its device is used.

    Raises:
        UserError: data that the model cannot be asked about.
    """
    from robustlab.models.load import load_target
    from robustlab.training.compress import kind_of_model

    device = str(plan.device)
    if kind_of_model(spec) == "retriever":
        return _recall(spec, data, device)
    target = load_target(spec, device=device, dtype="fp32")
    if target.kind != "classifier":
        return _exact_match(target, data)
    labelled = load_labelled(data)
    examples = sample(labelled.examples, min(_EXAMPLES, len(labelled.examples)), 0)
    if set(labelled.label_names) - set(target.label_names):
        return _linear(target, data, examples)
    classes = align_labels(labelled.label_names, target)
    response = target.answer(Predict(tuple(example.contents for example in examples)))
    assert isinstance(response, Predictions)
    wanted = np.array([classes[example.label] for example in examples])
    return float((response.labels == wanted).mean())


def _linear(target: Target, data: str, examples: Sequence[LabelledExample]) -> float:
    """Accuracy of ridge regression on frozen features."""
    train = load_labelled(data, split="train")
    fitted = sample(train.examples, min(_FITTED, len(train.examples)), 0)
    seen = _features(target, fitted)
    held = _features(target, examples)
    centre, scale = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    seen, held = (seen - centre) / scale, (held - centre) / scale
    seen, held = (np.hstack([part, np.ones((len(part), 1))]) for part in (seen, held))
    wanted = np.eye(len(train.label_names))[[example.label for example in fitted]]
    system = seen.T @ seen + _RIDGE * len(seen) / seen.shape[1] * np.eye(seen.shape[1])
    weights = np.linalg.solve(system, seen.T @ wanted)
    labels = np.array([example.label for example in examples])
    return float(((held @ weights).argmax(axis=1) == labels).mean())


def _features(target: Any, examples: Sequence[LabelledExample]) -> NDArray[np.float64]:
    """The first token's last hidden state, (examples, width)."""
    import torch

    model, tokenizer = target.model, target.tokenizer
    device = next(model.parameters()).device
    found = []
    with torch.inference_mode():
        for start in range(0, len(examples), 64):
            batch = examples[start : start + 64]
            pairs = [[one.text for one in batch]]
            if any(one.text_pair is not None for one in batch):
                pairs.append([one.text_pair or "" for one in batch])
            inputs = tokenizer(
                *pairs,
                truncation=True,
                max_length=min(128, target.limit),
                padding=True,
                return_tensors="pt",
            )
            output = model.base_model(**inputs.to(device))
            found.append(output.last_hidden_state[:, 0].float().cpu().numpy())
    return np.concatenate(found).astype(np.float64)


def _exact_match(target: Target, data: str) -> float:
    from robustlab.models.prompt import default_prompt
    from robustlab.rag.context import build_contexts
    from robustlab.training.readers import corpus_of

    corpus = corpus_of(data, {})
    passages = {passage.id: passage for passage in corpus.passages}
    split = choose_split(None, corpus.questions, corpus.name)
    able = [
        question
        for question in corpus.questions[split]
        if question.answers and any(key in passages for key in question.gold)
    ]
    if not able:
        raise UserError(f"no question of {data} has both an answer and a gold passage")
    questions = sample(able, min(_EXAMPLES, len(able)), 0)
    contexts = build_contexts(
        default_prompt(target),
        cast("Any", target),
        [question.text for question in questions],
        [[passages[key] for key in question.gold if key in passages] for question in questions],
        output_tokens=[_MAX_NEW_TOKENS] * len(questions),
    )
    response = target.answer(Generate(tuple(c.prompt for c in contexts), _MAX_NEW_TOKENS))
    assert isinstance(response, Generations)
    right = [
        exact_match(text, question.answers)
        for text, question in zip(response.texts, questions, strict=True)
    ]
    return sum(right) / len(right)


def _recall(spec: str, data: str, device: str) -> float:
    from robustlab.retrieval.encoder import SentenceEncoder
    from robustlab.training.readers import corpus_of
    from robustlab.training.retrievers import found_at_10

    corpus = corpus_of(data, {})
    split = choose_split(None, corpus.questions, corpus.name)
    able = [question for question in corpus.questions[split] if question.gold]
    if not able:
        raise UserError(f"no question of {data} has a gold passage")
    questions = sample(able, min(_EXAMPLES, len(able)), 0)
    encoder = SentenceEncoder.load(spec, device=device, dtype="fp32")
    base = encoder.encode([passage.contents for passage in corpus.passages], role="document")
    asked = encoder.encode([question.text for question in questions], role="query")
    found = found_at_10(base, asked, corpus, [question.gold for question in questions])
    return sum(found) / len(found)
