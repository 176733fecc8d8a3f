from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from attack_fakes import WordTarget

from robustlab.attack.engine import Engine, Finished, Job, QueryBudgetExhaustedError, Search
from robustlab.errors import UserError
from robustlab.models.target import Embed, Predict, Predictions


def asks(*sizes: int) -> Search[int]:
    """Asks so many texts at a time, and returns how many answers it saw."""
    seen = 0
    for size in sizes:
        response = yield Predict(tuple(f"text {i}" for i in range(size)))
        assert isinstance(response, Predictions)
        seen += len(response.probabilities)
    return seen


def job(key: str, search: Search[object]) -> Job[object]:
    return Job(key, lambda rng: search)


def results(engine: Engine, jobs: list[Job[object]]) -> dict[str, Finished[object]]:
    return {finished.id: finished for finished in engine.run(jobs)}


def test_one_round_is_one_request_to_the_target() -> None:
    target = WordTarget(dtype="bf16")
    engine = Engine(target, seed=0)
    done = results(engine, [job(f"e{i}", asks(2, 3)) for i in range(5)])
    assert [len(batch) for batch in target.batches] == [2, 1]  # the third text alone was new
    assert {key: (f.value, f.queries, f.error) for key, f in done.items()} == {
        f"e{i}": (5, 5, None) for i in range(5)
    }


def test_repeated_and_cached_texts_are_queries() -> None:
    def repeats() -> Search[None]:
        yield Predict(("a", "a"))
        yield Predict(("a",))

    engine = Engine(WordTarget(), seed=0)
    assert results(engine, [job("e", repeats())])["e"].queries == 3
    assert (engine.stats.forwarded, engine.stats.duplicates, engine.stats.cached) == (1, 1, 1)


def test_no_more_examples_are_alive_than_allowed() -> None:
    alive: set[int] = set()
    most = 0

    def lives(number: int) -> Search[None]:
        nonlocal most
        alive.add(number)
        most = max(most, len(alive))
        for step in range(1 + number % 3):
            yield Predict((f"{number} {step}",))
        alive.remove(number)

    engine = Engine(WordTarget(), seed=0, concurrency=3)
    assert len(results(engine, [job(str(i), lives(i)) for i in range(10)])) == 10
    assert most == 3


def test_jobs_are_taken_as_there_is_room() -> None:
    taken = []

    def jobs() -> Iterator[Job[object]]:
        for number in range(6):
            taken.append(number)
            yield job(str(number), asks(1))

    running = Engine(WordTarget(), seed=0, concurrency=2).run(jobs())
    next(running)
    assert taken == [0, 1]
    running.close()


def test_an_attack_without_requests_is_finished_at_once() -> None:
    done = results(Engine(WordTarget(), seed=0), [job("e", asks())])
    assert (done["e"].value, done["e"].queries) == (0, 0)


def test_budget_is_told_inside_the_attack() -> None:
    told = []

    def adapts() -> Search[str]:
        yield Predict(("a", "b", "c"))
        try:
            yield Predict(("d", "e", "f"))
        except QueryBudgetExhaustedError as refusal:
            told.append((refusal.asked, refusal.remaining))
            yield Predict(("d", "e"))
        return "best so far"

    engine = Engine(WordTarget(), seed=0, query_budget=5)
    done = results(engine, [job("e", adapts())])["e"]
    assert told == [(3, 2)]
    assert (done.value, done.queries, done.exhausted) == ("best so far", 5, False)


def test_an_attack_that_ignores_its_budget_ends_there() -> None:
    target = WordTarget(dtype="bf16")

    def insists() -> Search[None]:
        yield Predict(("a",))
        while True:
            try:
                yield Predict(("b", "c"))
            except QueryBudgetExhaustedError:
                continue

    engine = Engine(target, seed=0, query_budget=2)
    done = results(engine, [job("passes", asks(2, 1)), job("insists", insists())])
    for finished, queries in ((done["passes"], 2), (done["insists"], 1)):
        assert (finished.value, finished.error, finished.exhausted) == (None, None, True)
        assert finished.queries == queries
    assert all("b" not in batch for batch in target.batches)


def test_a_failing_example_does_not_stop_the_others() -> None:
    def fails() -> Search[None]:
        yield Predict(("a",))
        raise ValueError("two\nlines")

    def fails_at_once(rng: np.random.Generator) -> Search[None]:
        raise KeyError("start")

    done = results(
        Engine(WordTarget(unreadable=frozenset({"?"})), seed=0),
        [
            job("raises", fails()),
            Job("no start", fails_at_once),
            job("unreadable", (lambda: (yield Predict(("?",))))()),
            job("strange", (lambda: (yield Embed(("a",))))()),
            job("fine", asks(4)),
        ],
    )
    assert done["raises"].error == "ValueError: two lines"
    assert done["no start"].error == "KeyError: 'start'"
    assert done["unreadable"].error == "RuntimeError: cannot read ?"
    assert "Embed" in str(done["strange"].error)
    assert (done["fine"].value, done["fine"].error) == (4, None)


@pytest.mark.parametrize("error", [UserError("no stopwords"), KeyboardInterrupt()])
def test_what_ends_the_run_closes_every_attack(error: BaseException) -> None:
    closed = []

    def waits(key: str) -> Search[None]:
        try:
            yield Predict(("a",))
            yield Predict(("b",))
        finally:
            closed.append(key)

    def ends() -> Search[None]:
        yield Predict(("a",))
        raise error

    running = Engine(WordTarget(), seed=0).run(
        [job("first", waits("first")), job("ends", ends()), job("last", waits("last"))]
    )
    with pytest.raises(type(error)):
        list(running)
    assert sorted(closed) == ["first", "last"]


def test_an_abandoned_run_closes_every_attack() -> None:
    closed = []

    def waits() -> Search[None]:
        try:
            yield Predict(("a",))
            yield Predict(("b",))
        finally:
            closed.append(True)

    running = Engine(WordTarget(), seed=0).run([job("done", asks(1)), job("waits", waits())])
    assert next(running).id == "done"
    running.close()
    assert closed == [True]


@pytest.mark.parametrize("concurrency", [2, 5, 20])
def test_randomness_is_the_example_s_own(concurrency: int) -> None:
    def gambles(rng: np.random.Generator) -> Search[list[float]]:
        drawn = []
        for _ in range(4):
            drawn += [random.random(), float(np.random.rand()), float(torch.rand(1))]
            drawn.append(float(rng.random()))
            yield Predict((f"a text {random.random()}",))
        return drawn

    def run(concurrency: int, count: int) -> dict[str, object]:
        engine = Engine(WordTarget(), seed=3, concurrency=concurrency)
        return {f.id: f.value for f in engine.run(Job(str(i), gambles) for i in range(count))}

    alone = run(1, 10)
    assert run(concurrency, 10) == alone
    assert run(concurrency, 7) == {str(i): alone[str(i)] for i in range(7)}
    assert len({tuple(value) for value in alone.values()}) == 10  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"query_budget": 0}])
def test_impossible_numbers_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Engine(WordTarget(), seed=0, **options)
