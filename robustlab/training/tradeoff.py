"""The curve: what each strength of adversarial training gained and what it cost.

A model is judged example by example, clean and under a suite of attacks run afresh against it;
every model of a curve sees the same examples. A point is one method at one strength, over all its
seeds. Whether it differs from the control, plain fine-tuning with as many updates, is tested in
pairs on the same examples.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robustlab.errors import UserError
from robustlab.metrics import (
    Estimate,
    PairedCounts,
    holm,
    mcnemar_exact,
    mean_estimate,
    paired_difference,
    rate,
)
from robustlab.training.families import Judged

__all__ = [
    "CONTROL",
    "Difference",
    "Model",
    "Point",
    "curve",
    "curve_csv",
    "points_of",
    "sentence",
]

CONTROL = "none"
"""The method of the control."""

_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Model:
    """One trained model and how it was judged.

    ``peft`` names the adapters, ``full`` where all parameters were trained. ``variant`` is empty,
    or says what was made of the model (``int8``, ``distilled``, …). ``training`` is its
    :class:`~robustlab.training.trainer.TrainResult` as JSON; empty where nothing was trained.
    ``probes``: a measure on other data, by the data's name.
    """

    method: str
    strength: float
    seed: int
    judged: Judged
    peft: str = "full"
    variant: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    probes: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, float, str, str]:
        """What models of one point have in common."""
        return self.method, self.strength, self.peft, self.variant

    @property
    def label(self) -> str:
        """The point in words: ``freelb 0.5, lora, int8``."""
        named = self.method if self.method == CONTROL else f"{self.method} {self.strength:g}"
        return ", ".join([named, self.peft, *([self.variant] if self.variant else [])])


@dataclass(frozen=True, slots=True)
class Difference:
    """A point minus the control, on the same examples.

    ``p`` is McNemar's exact test for one seed and a sign-flip permutation test over examples for
    several; ``p_holm`` is adjusted for being one of several points.
    """

    estimate: Estimate
    p: float
    p_holm: float = float("nan")

    def as_json(self) -> dict[str, Any]:
        """The object in ``tradeoff.json``."""
        return {**self.estimate.as_json(), "p": self.p, "p_holm": self.p_holm}


@dataclass(frozen=True, slots=True)
class Point:
    """One method at one strength over its seeds.

    With one seed the intervals are Wilson's; with several they are bootstrapped over examples,
    each of which is right in a share of the seeds. ``cost`` has the means over the seeds.
    """

    label: str
    method: str
    strength: float
    peft: str
    variant: str
    seeds: tuple[int, ...]
    clean: Estimate
    robust: Estimate
    attacks: Mapping[str, Estimate]
    measures: Mapping[str, float]
    probes: Mapping[str, float]
    certified: float | None
    cost: Mapping[str, float]
    epochs: tuple[tuple[Mapping[str, Any], ...], ...]
    clean_difference: Difference | None = None
    robust_difference: Difference | None = None
    on_front: bool = False

    @property
    def is_control(self) -> bool:
        """Whether it is plain fine-tuning."""
        return self.method == CONTROL and not self.variant


def points_of(models: Sequence[Model]) -> tuple[Point, ...]:
    """A point for each method, strength, kind of adapter and variant, in order of appearance.

    Raises:
        UserError: models that were judged on different examples.
    """
    grouped: dict[tuple[str, float, str, str], list[Model]] = {}
    for model in models:
        grouped.setdefault(model.key, []).append(model)
    first = models[0]
    for model in models:
        if set(model.judged.clean) != set(first.judged.clean):
            raise UserError(
                f"{model.label} and {first.label} were judged on different examples, so they "
                "cannot stand on one curve"
            )
    made = {key: _point(group) for key, group in grouped.items()}
    differences: dict[tuple[str, float, str, str], tuple[Difference, Difference]] = {}
    for key, group in grouped.items():
        control = _control_of(group[0], grouped)
        if control is not None and control is not group:
            differences[key] = (
                _difference(group, control, "clean"),
                _difference(group, control, "robust"),
            )
    adjusted = [holm([pair[which].p for pair in differences.values()]) for which in (0, 1)]
    corrected = {
        key: tuple(
            Difference(pair[which].estimate, pair[which].p, adjusted[which][number])
            for which in (0, 1)
        )
        for number, (key, pair) in enumerate(differences.items())
    }
    front = _front({key: (p.clean.value, p.robust.value) for key, p in made.items()})
    return tuple(
        replace(
            point,
            clean_difference=corrected[key][0] if key in corrected else None,
            robust_difference=corrected[key][1] if key in corrected else None,
            on_front=key in front,
        )
        for key, point in made.items()
    )


def _control_of(
    model: Model, grouped: Mapping[tuple[str, float, str, str], list[Model]]
) -> list[Model] | None:
    """The control with the same adapters, else any."""
    controls = [group for key, group in grouped.items() if key[0] == CONTROL and not key[3]]
    same = [group for group in controls if group[0].peft == model.peft]
    found = [*same, *controls]
    return found[0] if found else None


def _point(group: Sequence[Model]) -> Point:
    first = group[0]
    attacks = {
        name: _estimate([model.judged.attacks[name] for model in group])
        for name in first.judged.attacks
    }
    certified = [m.judged.certified for m in group if m.judged.certified is not None]
    return Point(
        label=first.label,
        method=first.method,
        strength=first.strength,
        peft=first.peft,
        variant=first.variant,
        seeds=tuple(model.seed for model in group),
        clean=_estimate([model.judged.clean for model in group]),
        robust=_estimate([model.judged.robust for model in group]),
        attacks=attacks,
        measures=_means([model.judged.measures for model in group]),
        probes=_means([model.probes for model in group]),
        certified=float(np.mean(certified)) if certified else None,
        cost=_means(
            [
                {
                    key: model.training[key]
                    for key in ("updates", "seconds", "forwards", "backwards", "peak_bytes")
                    if key in model.training
                }
                for model in group
            ]
        ),
        epochs=tuple(tuple(model.training.get("epochs", ())) for model in group),
    )


def _estimate(verdicts: Sequence[Mapping[str, bool]]) -> Estimate:
    """The share right, over examples and seeds."""
    if len(verdicts) == 1:
        return rate(sum(verdicts[0].values()), len(verdicts[0]))
    ids = sorted(set.intersection(*(set(one) for one in verdicts)))
    return mean_estimate([float(np.mean([one[key] for one in verdicts])) for key in ids])


def _means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """The mean of each measure over the models that have it."""
    names = {name: None for row in rows for name in row}
    found = {name: [v for row in rows if (v := row.get(name)) is not None] for name in names}
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _difference(group: Sequence[Model], control: Sequence[Model], which: str) -> Difference:
    """The group minus the control."""
    own = [getattr(model.judged, which) for model in group]
    other = [getattr(model.judged, which) for model in control]
    ids = sorted(set.intersection(*(set(one) for one in (*own, *other))))
    if len(own) == len(other) == 1:
        counts = PairedCounts.count((other[0][key], own[0][key]) for key in ids)
        return Difference(
            paired_difference(counts), mcnemar_exact(counts.only_first, counts.only_second)
        )
    gains = np.array(
        [np.mean([one[key] for one in own]) - np.mean([one[key] for one in other]) for key in ids]
    )
    return Difference(mean_estimate(gains.tolist()), _sign_flips(gains))


def _sign_flips(gains: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Two-sided p-value of a mean of 0, where each example's gain could have had either sign.

    Fisher's randomisation test, with 10,000 random flips; p = (1 + hits) / (1 + flips).
    """
    moved = gains[gains != 0]
    if not len(moved):
        return 1.0
    generator = np.random.default_rng(0)
    signs = generator.integers(0, 2, size=(_RESAMPLES, len(moved))) * 2 - 1
    # A little slack, so that the same sum in another order counts as reached.
    hits = int((np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9).sum())
    return (1 + hits) / (1 + _RESAMPLES)


def _front(places: Mapping[Any, tuple[float, float]]) -> set[Any]:
    """Keys of the points that no other point is at least as good as in both and better in one."""
    return {
        key
        for key, (x, y) in places.items()
        if not any(
            (a >= x and b >= y) and (a > x or b > y)
            for other, (a, b) in places.items()
            if other != key
        )
    }


def curve(
    models: Sequence[Model],
    *,
    attacks: str,
    trained_by: str,
    training_attacks: Collection[str],
    probes_before: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The object in ``tradeoff.json``.

    Args:
        models: at least the control and one other.
        attacks: name of the suite that judged them.
        trained_by: the training method.
        training_attacks: what they were trained against, by the names of recipes; the judge has
            kept these out of robust accuracy.
        probes_before: the measures on other data of the model that training began with.
    """
    points = points_of(models)
    judged = models[0].judged
    return {
        "attacks": {
            "suite": attacks,
            "members": list(judged.attacks),
            "in_turn": judged.in_turn,
        },
        "left_out": sorted(set(judged.attacks) & set(training_attacks)),
        "not_text": list(judged.embedded),
        "trained_by": trained_by,
        "words": {"clean": judged.words[0], "robust": judged.words[1]},
        "constant": judged.constant,
        "probes_before": dict(probes_before or {}),
        "points": [_as_json(point) for point in points],
        "sentence": sentence(points, judged.words, attacks),
    }


def _as_json(point: Point) -> dict[str, Any]:
    return {
        "label": point.label,
        "method": point.method,
        "strength": point.strength,
        "peft": point.peft,
        "variant": point.variant,
        "control": point.is_control,
        "seeds": list(point.seeds),
        "clean": point.clean.as_json(),
        "robust": point.robust.as_json(),
        "attacks": {name: one.as_json() for name, one in point.attacks.items()},
        "clean_difference": point.clean_difference and point.clean_difference.as_json(),
        "robust_difference": point.robust_difference and point.robust_difference.as_json(),
        "on_front": point.on_front,
        "certified": point.certified,
        "measures": dict(point.measures),
        "probes": dict(point.probes),
        "cost": dict(point.cost),
        "epochs": [list(epochs) for epochs in point.epochs],
    }


_COLUMNS = (
    "label", "method", "strength", "peft", "variant", "control", "seeds",
    "clean", "clean_low", "clean_high", "robust", "robust_low", "robust_high", "n",
    "clean_difference", "clean_p_holm", "robust_difference", "robust_p_holm", "on_front",
    "certified", "updates", "seconds", "forwards", "backwards", "peak_bytes",
)  # fmt: skip


def curve_csv(found: Mapping[str, Any]) -> bytes:
    """``tradeoff.csv`` of a curve: a row a point, and a column for each attack, measure, probe."""
    after = "standing after" if found["attacks"]["in_turn"] else "robust to"
    extra: dict[str, None] = {}
    rows = []
    for point in found["points"]:
        more = {f"{after} {name}": one["value"] for name, one in point["attacks"].items()}
        more |= {**point["measures"]}
        more |= {f"on {name}": value for name, value in point["probes"].items()}
        extra |= dict.fromkeys(more)
        clean, robust = point["clean"], point["robust"]
        rows.append(
            {
                **{key: point[key] for key in _COLUMNS if key in point},
                "seeds": " ".join(map(str, point["seeds"])),
                "clean": clean["value"],
                "clean_low": clean["low"],
                "clean_high": clean["high"],
                "robust": robust["value"],
                "robust_low": robust["low"],
                "robust_high": robust["high"],
                "n": clean["n"],
                "clean_difference": (point["clean_difference"] or {}).get("value"),
                "clean_p_holm": (point["clean_difference"] or {}).get("p_holm"),
                "robust_difference": (point["robust_difference"] or {}).get("value"),
                "robust_p_holm": (point["robust_difference"] or {}).get("p_holm"),
                **point["cost"],
                **more,
            }
        )
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, [*_COLUMNS, *extra], restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode("utf-8")


def sentence(points: Sequence[Point], words: tuple[str, str], suite: str) -> str:
    """What the point with the most robust accuracy gained and lost, in one sentence."""
    controls = [point for point in points if point.is_control]
    compared = [point for point in points if point.robust_difference is not None]
    if not controls or not compared:
        return "There is nothing to compare with the control."
    # Compressed forms of the control only where nothing else was trained.
    others = [point for point in compared if point.method != CONTROL] or compared
    best = max(others, key=lambda point: (point.robust.value, point.clean.value))
    # The one that its differences are from: trained in the same way, else any.
    control = next((point for point in controls if point.peft == best.peft), controls[0])
    gained, lost = best.robust_difference, best.clean_difference
    assert gained is not None
    assert lost is not None
    clean, robust = words
    sure = "significant" if gained.p_holm <= 0.05 else "not significant"
    verb = "raises" if gained.estimate.value > 0 else "does not raise"
    moved = lost.estimate.value
    cost = (
        f"{'costs' if moved < 0 else 'gains'} {abs(100 * moved):.1f} points of {clean} "
        f"({_percent(control.clean)} to {_percent(best.clean)})"
        if moved
        else f"leaves {clean} at {_percent(best.clean)}"
    )
    return (
        f"{best.label} {verb} {robust} under {suite} from {_percent(control.robust)} to "
        f"{_percent(best.robust)} ({_points(gained.estimate.value)}, {sure}: "
        f"p = {gained.p_holm:.2g}), and {cost}."
    )


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points".replace("-", "−")
