from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attack_fakes import WordEncoder, WordGenerator, WordTarget

from robustlab.attack.engine import (
    BudgetExhaustedError,
    Engine,
    Finished,
    Job,
    QueryBudgetExhaustedError,
    Search,
    TimeBudgetExhaustedError,
)
from robustlab.errors import UserError
from robustlab.models.target import (
    Embed,
    Embeddings,
    Generate,
    Generations,
    Gradient,
    Gradients,
    Predict,
    Predictions,
    Score,
    Scores,
)


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


def test_what_each_kind_of_request_costs() -> None:
    left = []

    def asks_all_kinds() -> Search[list[str]]:
        seen = []
        for request in (
            Generate(("a", "b"), 4),
            Score(("a", "b", "c"), ("x", "y", "z")),
            Gradient(("a", "b", "c", "d"), ("x", "x", "x", "x")),
            Embed(("a", "b", "c", "d", "e")),
        ):
            response = yield request
            seen.append(type(response).__name__)
            try:
                yield Generate(("a",) * 100)
            except QueryBudgetExhaustedError as refusal:
                left.append(refusal.remaining)
        return seen

    engine = Engine(WordGenerator(), seed=0, encoder=WordEncoder(), query_budget=20)
    done = results(engine, [job("e", asks_all_kinds())])["e"]
    assert done.value == ["Generations", "Scores", "Gradients", "Embeddings"]
    assert left == [18, 15, 11, 11]
    assert done.queries == 9


def test_attacks_of_different_kinds_run_side_by_side() -> None:
    def scores() -> Search[list[float]]:
        drawn = []
        for text in ("good", "good good"):
            response = yield Score((text,), ("yes",))
            assert isinstance(response, Scores)
            drawn.append(float(response.log_probs[0]))
        return drawn

    def generates() -> Search[str]:
        response = yield Generate(("bad",), 4)
        assert isinstance(response, Generations)
        return response.texts[0]

    def descends() -> Search[int]:
        response = yield Gradient(("good day",), ("yes",))
        assert isinstance(response, Gradients)
        similar = yield Embed(("good day", "day good"))
        assert isinstance(similar, Embeddings)
        return round(float(similar.vectors[0] @ similar.vectors[1]) * len(response.items))

    engine = Engine(WordGenerator(), seed=0, encoder=WordEncoder())
    jobs = [job("scores", scores()), job("generates", generates()), job("descends", descends())]
    values = {key: finished.value for key, finished in results(engine, jobs).items()}
    assert values["generates"] == "no"
    assert values["descends"] == 1
    np.testing.assert_allclose(values["scores"], [-0.2014, -0.0486], atol=2e-3)  # type: ignore[arg-type]


def test_what_the_target_does_not_answer_costs_nothing() -> None:
    def tries() -> Search[str]:
        try:
            yield Generate(("a",) * 50)
        except TypeError as error:
            yield Predict(("a",))
            return str(error)
        return "answered"

    done = results(Engine(WordTarget(), seed=0, query_budget=3), [job("e", tries())])["e"]
    assert done.value == "fake:words (classifier) does not answer Generate"
    assert done.queries == 1


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The engine's time in seconds, moved by hand."""
    now = [100.0]
    monkeypatch.setattr(
        "robustlab.attack.engine.time", SimpleNamespace(perf_counter=lambda: now[0])
    )
    return now


def test_time_is_up_where_an_attack_asks(clock: list[float]) -> None:
    told = []

    def searches() -> Search[str]:
        yield Predict(("a",))
        clock[0] += 4
        yield Predict(("b",))
        clock[0] += 4
        try:
            yield Embed(("c",))  # costs no query, but there is no time for it
        except TimeBudgetExhaustedError as refusal:
            told.append((refusal.spent, refusal.budget))
        return "best so far"

    encoder = WordEncoder()
    engine = Engine(WordTarget(), seed=0, encoder=encoder, seconds_budget=5)
    done = results(engine, [job("e", searches())])["e"]
    assert (done.value, done.exhausted, done.queries, done.seconds) == ("best so far", False, 2, 8)
    assert told == [(8, 5)]
    assert encoder.batches == []


def test_time_runs_from_the_first_step_of_each_example(clock: list[float]) -> None:
    def hurries() -> Search[str]:
        yield Predict(("a",))
        clock[0] += 4
        yield Predict(("b",))
        return "done"

    engine = Engine(WordTarget(), seed=0, seconds_budget=5, concurrency=1)
    done = results(engine, [job("first", hurries()), job("second", hurries())])
    assert [finished.value for finished in done.values()] == ["done", "done"]
    together = Engine(WordTarget(), seed=0, seconds_budget=5, concurrency=2)
    done = results(together, [job("first", hurries()), job("second", hurries())])
    assert {key: finished.exhausted for key, finished in done.items()} == {
        "first": False,
        "second": True,
    }


def test_an_attack_that_ignores_the_time_ends_there(clock: list[float]) -> None:
    def insists() -> Search[None]:
        while True:
            try:
                yield Predict(("a",))
                clock[0] += 4
            except BudgetExhaustedError:
                continue

    done = results(Engine(WordTarget(), seed=0, seconds_budget=5), [job("e", insists())])["e"]
    assert (done.value, done.error, done.exhausted, done.queries) == (None, None, True, 2)


def test_both_budgets_are_told_one_after_the_other(clock: list[float]) -> None:
    told = []

    def searches() -> Search[str]:
        yield Predict(("a",))
        for size in (3, 1):
            try:
                yield Predict(("b",) * size)
            except BudgetExhaustedError as refusal:
                told.append(type(refusal).__name__)
                clock[0] += 10
        return "best so far"

    engine = Engine(WordTarget(), seed=0, query_budget=2, seconds_budget=5)
    done = results(engine, [job("e", searches())])["e"]
    assert told == ["QueryBudgetExhaustedError", "TimeBudgetExhaustedError"]
    assert (done.value, done.queries) == ("best so far", 1)


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
            job("no request", (lambda: (yield None))()),  # type: ignore[misc]
            job("fine", asks(4)),
        ],
    )
    assert done["raises"].error == "ValueError: two lines"
    assert done["no start"].error == "KeyError: 'start'"
    assert done["unreadable"].error == "RuntimeError: cannot read ?"
    assert "Embed" in str(done["strange"].error)
    assert "NoneType" in str(done["no request"].error)
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


def test_the_caller_s_generators_are_left_alone() -> None:
    def gambles(rng: np.random.Generator) -> Search[float]:
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        yield Predict((f"a text {np.random.randn()}",))
        return random.random() + float(np.random.randn()) + float(torch.rand(1))

    def draws() -> Iterator[tuple[float, ...]]:
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        while True:
            yield random.random(), float(np.random.randn()), float(torch.rand(1))

    expected = draws()
    undisturbed = [next(expected) for _ in range(4)]
    found = draws()
    drawn = [next(found)]
    for _ in Engine(WordTarget(), seed=3, concurrency=2).run(Job(key, gambles) for key in "abc"):
        drawn.append(next(found))
    assert drawn == undisturbed


def search_by_all_means(rng: np.random.Generator) -> Search[list[object]]:
    """Takes the best of random texts by score, gradient and generated text, again and again."""
    text, found = "the view", []
    for _ in range(5):
        words = rng.choice(["good", "bad", "fine", "dull", "day", "sea", "hill", "road"], 12)
        candidates = tuple(f"{text} {word}" for word in words)
        scores = yield Score(candidates, ("yes",) * len(candidates))
        assert isinstance(scores, Scores)
        text = candidates[int(scores.log_probs.argmin())]
        slopes = yield Gradient((text,), ("no",))
        answer = yield Generate((text,), 4)
        assert isinstance(slopes, Gradients)
        assert isinstance(answer, Generations)
        found += [text, slopes.items[0].gradient.tolist(), answer.texts, answer.margins.tolist()]
    return found


def test_outcomes_do_not_depend_on_concurrency() -> None:
    def run(concurrency: int) -> dict[str, object]:
        # What scores move by in a batch is twice the fake's noise, over two tokens.
        engine = Engine(WordGenerator(noise=1e-5), seed=3, concurrency=concurrency)
        done = engine.run(Job(str(i), search_by_all_means) for i in range(12))
        return {finished.id: finished.value for finished in done}

    alone = run(1)
    assert all(isinstance(value, list) for value in alone.values())
    assert run(4) == alone
    assert run(12) == alone


def test_a_fresh_look_is_exact_and_no_query() -> None:
    target, judge = WordTarget(dtype="bf16"), WordTarget()
    engine = Engine(target, seed=0, encoder=WordEncoder())
    results(engine, [job("e", asks(2))])
    fresh = engine.fresh(Predict(("text 0", "text 1")))
    assert isinstance(fresh, Predictions)
    assert target.batches == [("text 0", "text 1"), ("text 0",), ("text 1",)]
    engine.fresh(Predict(("text 0",)), judge=judge)
    assert judge.batches == [("text 0",)]
    assert isinstance(engine.fresh(Embed(("a",))), Embeddings)
    assert engine.stats.forwarded == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "at least 1"),
        ({"query_budget": 0}, "at least 1"),
        ({"seconds_budget": 0.0}, "above 0"),
        ({"seconds_budget": float("nan")}, "above 0"),
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(WordTarget(), seed=0, **options)  # type: ignore[arg-type]
