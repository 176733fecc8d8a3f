"""Accuracy of a classifier on a labelled set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustlab.data.records import LabelledExample
from robustlab.errors import UserError
from robustlab.evaluation._chunks import chunks
from robustlab.metrics.intervals import Estimate, rate
from robustlab.models.target import Predict, Predictions, Target

__all__ = ["align_labels", "classification_outcomes", "summarise_classification"]


def align_labels(data_names: Sequence[str], target: Target) -> tuple[int, ...]:
    """The target's class for each label of the data.

    The same names in another order or case are matched by name. Different names (``LABEL_0``)
    are matched by position, since a set's indices mean the classes in their order.

    Raises:
        UserError: the target has fewer or more classes than the data have labels.
    """
    names = target.label_names
    if len(names) != len(data_names):
        raise UserError(
            f"{target.spec} tells {len(names)} classes apart ({', '.join(names)}), but the data "
            f"have {len(data_names)} labels ({', '.join(data_names)})"
        )
    by_name = {name.casefold(): number for number, name in enumerate(names)}
    wanted = [name.casefold() for name in data_names]
    if len(by_name) == len(names) and set(by_name) == set(wanted):
        return tuple(by_name[name] for name in wanted)
    return tuple(range(len(names)))


def classification_outcomes(
    target: Target, examples: Sequence[LabelledExample], label_names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One outcome for each example: the label predicted beside the right one.

    ``probability`` is that of the predicted label, ``truth_probability`` that of the right one.
    """
    classes = align_labels(label_names, target)
    name_of = {number: label_names[label] for label, number in enumerate(classes)}
    for chunk in chunks(examples):
        texts = tuple(
            example.text if example.text_pair is None else (example.text, example.text_pair)
            for example in chunk
        )
        response = target.answer(Predict(texts))
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
