"""Accuracy of a classifier on a labelled set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustlab.data.records import LabelledExample
from robustlab.evaluation._chunks import chunks
from robustlab.metrics.intervals import Estimate, rate
from robustlab.models.labels import align_labels
from robustlab.models.target import Predict, Predictions, Target

__all__ = ["classification_outcomes", "summarise_classification"]


def classification_outcomes(
    target: Target, examples: Sequence[LabelledExample], label_names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One outcome for each example: the label predicted beside the right one.

    ``probability`` is that of the predicted label, ``truth_probability`` that of the right one.
    """
    classes = align_labels(label_names, target)
    name_of = {number: label_names[label] for label, number in enumerate(classes)}
    for chunk in chunks(examples):
        response = target.answer(Predict(tuple(example.contents for example in chunk)))
        assert isinstance(response, Predictions)
        for example, row, predicted in zip(
            chunk, response.probabilities, response.labels.tolist(), strict=True
        ):
            truth = classes[example.label]
            yield {
                "id": example.id,
                "text": example.text,
                **({} if example.text_pair is None else {"text_pair": example.text_pair}),
                "truth": name_of[truth],
                "prediction": name_of[predicted],
                "probability": float(row[predicted]),
                "truth_probability": float(row[truth]),
                "correct": predicted == truth,
            }


def summarise_classification(
    outcomes: Sequence[Mapping[str, Any]], label_names: Sequence[str]
) -> dict[str, Estimate]:
    """``accuracy``, and ``accuracy[LABEL]`` over the examples of each label (its recall)."""

    def accuracy(chosen: Sequence[Mapping[str, Any]]) -> Estimate:
        return rate(sum(bool(outcome["correct"]) for outcome in chosen), len(chosen))

    by_label = {
        f"accuracy[{name}]": accuracy([o for o in outcomes if o["truth"] == name])
        for name in label_names
    }
    return {"accuracy": accuracy(outcomes), **by_label}
