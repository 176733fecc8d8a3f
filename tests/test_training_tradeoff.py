"""The curve's numbers: points, paired differences, the front, the sentence."""

from __future__ import annotations

import csv
import io
import re
from itertools import pairwise
from typing import Any

import pytest

from robustlab.errors import UserError
from robustlab.report.tradeoff import draw_tradeoff, tradeoff_page, tradeoff_table
from robustlab.training.families import Judged
from robustlab.training.tradeoff import Model, curve, curve_csv, points_of

COST = {"updates": 10, "seconds": 4.0, "forwards": 30, "backwards": 30, "peak_bytes": 2**30}


def model(
    method: str, strength: float, clean: str, robust: str, seed: int = 0, **more: Any
) -> Model:
    """Verdicts as strings of 1 and 0, an example a digit."""
    verdicts = {str(i): mark == "1" for i, mark in enumerate(robust)}
    judged = Judged(
        clean={str(i): mark == "1" for i, mark in enumerate(clean)},
        robust=verdicts,
        attacks={"deepwordbug": verdicts},
        constant=0.6,
    )
    return Model(method, strength, seed, judged, training=COST, **more)


def found(*models: Model) -> dict[str, Any]:
    return curve(models, attacks="quick", trained_by="freelb", training_attacks={"freelb"})


CONTROL = model("none", 0.0, "1111111110", "1000000000")
STRONG = model("freelb", 1.0, "1111111100", "1111111100")


def test_a_point_against_the_control() -> None:
    control, strong = points_of([CONTROL, STRONG])
    assert (control.clean.value, strong.clean.value) == (0.9, 0.8)
    assert (control.robust.value, strong.robust.value) == (0.1, 0.8)
    assert control.is_control
    assert control.robust_difference is None
    gained = strong.robust_difference
    assert gained is not None
    assert gained.estimate.value == pytest.approx(0.7)
    # McNemar: 7 examples only the second got right, none only the first: 2 / 2^7
    assert gained.p == pytest.approx(2 / 128)
    assert gained.p_holm == gained.p  # one point only
    assert control.on_front
    assert strong.on_front


def test_p_values_are_adjusted_for_the_number_of_points() -> None:
    _, *others = points_of([CONTROL, STRONG, model("freelb", 0.5, "1" * 10, "1111000000")])
    ps = [point.robust_difference for point in others]
    assert ps[0] is not None
    assert ps[1] is not None
    assert ps[0].p_holm == pytest.approx(2 * 2 / 128)
    assert ps[1].p == pytest.approx(0.25)
    assert ps[1].p_holm == pytest.approx(0.25)


def test_seeds_are_one_point_and_paired_by_example() -> None:
    models = [
        CONTROL,
        model("none", 0.0, "1111111110", "0000000000", 1),
        STRONG,
        model("freelb", 1.0, "1111111100", "1111110000", 1),
    ]
    control, strong = points_of(models)
    assert strong.seeds == (0, 1)
    assert strong.robust.value == pytest.approx(0.7)
    assert strong.robust.n == 10
    gained = strong.robust_difference
    assert gained is not None
    # example gains: 0.5, five times 1, twice 0.5, twice 0; all one sign: p near 2 / 2^8
    assert gained.estimate.value == pytest.approx(0.65)
    assert gained.p == pytest.approx(2 / 256, abs=0.003)
    assert control.cost["forwards"] == 30


def test_a_point_that_another_beats_in_both_is_not_on_the_front() -> None:
    worse = model("freelb", 2.0, "1111110000", "1111000000")
    points = points_of([CONTROL, STRONG, worse])
    assert [point.on_front for point in points] == [True, True, False]


def test_models_judged_on_other_examples_cannot_share_a_curve() -> None:
    with pytest.raises(UserError, match="different examples"):
        points_of([CONTROL, model("freelb", 1.0, "11", "11")])


def test_the_sentence_says_what_was_gained_and_lost() -> None:
    said = found(CONTROL, STRONG)["sentence"]
    assert said == (
        "freelb 1, full raises robust accuracy under quick from 10.0 % to 80.0 % (+70.0 points, "
        "significant: p = 0.016), and costs 10.0 points of clean accuracy (90.0 % to 80.0 %)."
    )


def test_the_sentence_is_of_what_was_trained_and_not_of_a_compressed_control() -> None:
    small = model("none", 0.0, "1111111111", "1111111111", variant="int8")
    assert found(CONTROL, small, STRONG)["sentence"].startswith("freelb 1, full raises")
    weaker = model("freelb", 0.5, "1111111000", "1111111100")
    assert found(CONTROL, weaker, STRONG)["sentence"].startswith("freelb 1, full raises")
    assert found(CONTROL, small)["sentence"].startswith("none, full, int8 raises")


def test_the_sentence_is_about_the_control_trained_in_the_same_way() -> None:
    other = model("none", 0.0, "1111111100", "1100000000", peft="lora")
    trained = model("freelb", 1.0, "1111111100", "1111000000", peft="lora")
    said = found(CONTROL, other, trained)["sentence"]
    assert "from 20.0 % to 40.0 % (+20.0 points" in said
    assert said.endswith("and leaves clean accuracy at 80.0 %.")


def test_csv_page_table_and_figure(tmp_path: Any) -> None:
    made = found(CONTROL, STRONG)
    rows = list(csv.DictReader(io.StringIO(curve_csv(made).decode("utf-8"))))
    assert rows[1]["robust"] == "0.8"
    assert rows[1]["robust to deepwordbug"] == "0.8"
    assert rows[0]["robust_difference"] == ""
    head, table = tradeoff_table(made)
    assert len(head) == len(table[1])
    assert "+70.0 robust, −10.0 clean" in table[1]
    page = tradeoff_page(made, "a <title>", None)
    assert "a &lt;title&gt;" in page
    assert "most common class is right on 60.0 %" in page
    assert '<th scope="col">deepwordbug</th>' in page
    pytest.importorskip("matplotlib")
    drawn = draw_tradeoff(made, "tiny")
    assert drawn["png"].startswith(b"\x89PNG")
    assert b"freelb 1" in drawn["svg"]
    assert b"control" in drawn["svg"]


def test_names_of_points_close_together_are_not_written_over_each_other() -> None:
    pytest.importorskip("matplotlib")
    robust = "1" + "0" * 99
    close = [
        model("freelb", strength, "1" * (90 + number) + "0" * (10 - number), robust)
        for number, strength in enumerate((0.1, 0.2, 0.3))
    ]
    control = model("none", 0.0, "1" * 89 + "0" * 11, robust)
    drawn = draw_tradeoff(found(control, *close), "tiny")["svg"].decode()
    heights = []
    for name in ("control", r"freelb 0\.1", r"freelb 0\.2", r"freelb 0\.3"):
        (height,) = re.findall(rf' y="([\d.]+)"[^<]*>{name}<', drawn)
        heights.append(float(height))
    assert min(abs(one - other) for one, other in pairwise(heights)) > 6
