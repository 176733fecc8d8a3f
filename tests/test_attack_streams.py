from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch

from robustlab.attack.streams import RandomStream


def draw() -> tuple[float, ...]:
    # A single normal number leaves the second one of its pair behind in NumPy's generator.
    return (
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(1)),
        float(torch.randn(1)),
    )


def test_interleaved_streams_draw_what_they_would_alone() -> None:
    def alone(key: str) -> list[tuple[float, ...]]:
        with RandomStream(7, key):
            return [draw(), draw(), draw()]

    first, second = RandomStream(7, "a"), RandomStream(7, "b")
    mixed: dict[str, list[tuple[float, ...]]] = {"a": [], "b": []}
    for key in "abbaab":
        with first if key == "a" else second:
            mixed[key].append(draw())
        draw()  # what happens outside is nobody's business
    assert mixed == {"a": alone("a"), "b": alone("b")}
    assert not set(mixed["a"]) & set(mixed["b"])


@pytest.mark.parametrize("before", [0, 1])
def test_global_generators_go_on_as_if_nothing_had_happened(before: int) -> None:
    def seeded() -> list[tuple[float, ...]]:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        return [draw() for _ in range(before)]

    expected = [*seeded(), draw(), draw()]
    found = [*seeded(), draw()]
    with contextlib.suppress(KeyError), RandomStream(7, "a"):
        draw()
        raise KeyError
    found.append(draw())
    assert found == expected


def test_seeding_inside_is_not_felt_outside() -> None:
    np.random.seed(2)
    outside = np.random.get_state(legacy=False)
    stream = RandomStream(7, "a")
    with stream:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        seeded = draw()
    np.testing.assert_equal(np.random.get_state(legacy=False), outside)
    with stream:
        going_on = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert [draw(), draw()] == [seeded, going_on]


def test_seed_and_id_decide() -> None:
    def first_numbers(seed: int, key: str) -> tuple[object, ...]:
        stream = RandomStream(seed, key)
        with stream:
            return (*draw(), float(stream.generator.random()))

    assert first_numbers(7, "a") == first_numbers(7, "a")
    others = {first_numbers(7, "a"), first_numbers(8, "a"), first_numbers(7, "b")}
    assert len(others) == 3


def test_a_stream_is_entered_once_at_a_time() -> None:
    stream = RandomStream(7, "a")
    with stream, pytest.raises(RuntimeError, match="in use"):
        stream.__enter__()
