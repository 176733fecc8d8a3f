"""ROC curves as a figure: one colour an attack, dashed where it knows of the filter."""

from __future__ import annotations

import pytest

from robustlab.metrics import auc, roc_curve

pytest.importorskip("matplotlib")

from robustlab.report.figures import Roc, draw_roc

CLEAN = [0.1, 0.2, 0.3, 0.4]


def curve(poison: list[float]) -> Roc:
    return roc_curve(CLEAN, poison), auc(CLEAN, poison)


def test_an_adaptive_attack_is_dashed_in_the_colour_of_the_attack() -> None:
    svg = draw_roc(
        {"one": curve([0.9, 0.8]), "two": curve([0.3])}, "t", adaptive={"two": curve([0.0])}
    )["svg"].decode()
    assert svg.count("stroke-dasharray") >= 2  # the diagonal and the adaptive curve
    assert "AUC 1.00" in svg
    assert svg.count("adaptive, dashed: 0.00") == 1
    assert svg.index("one") < svg.index("two")


def test_many_curves_make_a_higher_figure() -> None:
    def height(count: int) -> int:
        png = draw_roc({f"attack {i}": curve([0.9]) for i in range(count)}, "t")["png"]
        return int.from_bytes(png[20:24], "big")

    assert height(3) == height(4)
    assert height(16) > 1.5 * height(4)
