from __future__ import annotations

import numpy as np
import pytest

from robustlab.attack.goals import UntargetedClassification


@pytest.mark.parametrize(
    ("probabilities", "truth", "met"),
    [
        ([0.4, 0.6], 0, True),
        ([0.6, 0.4], 0, False),
        ([0.5, 0.5], 0, False),  # of equals the first class counts
        ([0.5, 0.5], 1, True),
        ([0.2, 0.3, 0.5], 1, True),
        ([0.2, 0.5, 0.3], 1, False),
    ],
)
def test_untargeted_means_any_other_class(
    probabilities: list[float], truth: int, met: bool
) -> None:
    assert UntargetedClassification(truth).is_met(np.float32(probabilities)) is met


@pytest.mark.parametrize(("shape", "truth"), [((1, 2), 0), ((2,), 2), ((2,), -1)])
def test_what_it_cannot_judge_is_refused(shape: tuple[int, ...], truth: int) -> None:
    with pytest.raises(ValueError, match="is not judged by"):
        UntargetedClassification(truth).is_met(np.zeros(shape, dtype=np.float32))
