"""How attacks run: many at once, each written for one example.

An attack is a generator: it yields requests, is resumed with their responses, and returns its
result. The engine keeps many of them alive, hands their requests to the target in one merged
batch a round, and takes care of all that no attack should have to: counting queries and
holding the budget, random streams, and examples that fail.

What is a query: every text of every request, as the threat model counts them. A text that was
asked before, by the same example or another, is a query like any other, though it is answered
from memory; what was really read by the model is counted apart, in
:class:`~robustlab.attack.oracle.OracleStats`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import numpy as np

from robustlab.attack.oracle import CACHED_TEXTS, Oracle, OracleStats
from robustlab.attack.streams import RandomStream
from robustlab.errors import UserError
from robustlab.models.target import FloatArray, Predict, Request, Response, Target, TextInput

__all__ = ["Engine", "Finished", "Job", "QueryBudgetExhaustedError", "Search"]

ResultT = TypeVar("ResultT")

Search: TypeAlias = Generator[Request, Response, ResultT]
"""The coroutine of one example."""


class QueryBudgetExhaustedError(Exception):
    """Raised inside an attack, where it yielded a request larger than what is left to it.

    The request is not answered and costs nothing. The attack may return the best it has, or
    yield a request of at most ``remaining`` queries. If it asks for too much again instead, or
    lets the exception pass, its example ends there, as exhausted.
    """

    def __init__(self, asked: int, remaining: int) -> None:
        super().__init__(f"{asked} queries asked, {remaining} left")
        self.asked = asked
        self.remaining = remaining


@dataclass(frozen=True, slots=True)
class Job(Generic[ResultT]):
    """An example to be attacked.

    ``start`` makes its coroutine; it is given the example's own random generator. Ids must differ
    within a run, since streams are made from them.
    """

    id: str
    start: Callable[[np.random.Generator], Search[ResultT]]


@dataclass(frozen=True, slots=True)
class Finished(Generic[ResultT]):
    """How an attack on one example ended.

    ``value`` is what it returned; None if it raised an exception (then ``error`` says which) or
    ended by its budget (then ``exhausted`` is set). ``seconds`` is the time from its first step
    to its last, in which other examples made steps as well.
    """

    id: str
    value: ResultT | None
    queries: int
    seconds: float
    error: str | None = None
    exhausted: bool = False


class Engine:
    """Runs attacks against a target, and is the only one to ask it while they run.

    The result of an example depends on the target, the seed, the budget and the example, not on
    ``concurrency``, on the batch size or on which other examples there are; see
    :mod:`robustlab.attack.rounding` for what this takes.

    Args:
        target: what is attacked.
        seed: of the run; the random stream of an example comes from it and the example's id.
        concurrency: how many examples are alive at once.
        query_budget: the most queries of one example; None for no limit.
        cached_texts: how many answers are kept.
    """

    def __init__(
        self,
        target: Target,
        *,
        seed: int,
        concurrency: int = 64,
        query_budget: int | None = None,
        cached_texts: int = CACHED_TEXTS,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        if query_budget is not None and query_budget < 1:
            raise ValueError(f"the query budget must be at least 1, not {query_budget}")
        self._target = target
        self._oracle = Oracle(target, cached_texts=cached_texts)
        self._seed = seed
        self._concurrency = concurrency
        self._query_budget = query_budget

    @property
    def stats(self) -> OracleStats:
        """What the target was asked up to now, and what it was spared."""
        return self._oracle.stats

    def fresh(self, texts: Sequence[TextInput], *, judge: Target | None = None) -> FloatArray:
        """Unrounded probabilities of texts from passes of their own, shape (texts, classes).

        Each text is read alone, nothing is taken from the cache, and it is no query. ``judge`` is
        asked if given, else the target itself.
        """
        return self._oracle.fresh(judge or self._target, texts)

    def run(self, jobs: Iterable[Job[ResultT]]) -> Iterator[Finished[ResultT]]:
        """Results as examples finish; jobs are taken from the iterable as there is room.

        An example whose coroutine raises an exception ends with it as its ``error``, and the others
        go on. :class:`UserError` and whatever is no :class:`Exception`, such as an interrupt, ends
        the run; all coroutines are closed then, as they are if the caller stops reading.
        """
        waiting = iter(jobs)
        alive: list[_Example[ResultT]] = []
        try:
            while True:
                while len(alive) < self._concurrency:
                    job = next(waiting, None)
                    if job is None:
                        break
                    example = _Example(job, self._seed, self._query_budget)
                    finished = example.begin()
                    if finished is None:
                        alive.append(example)
                    else:
                        yield finished
                if not alive:
                    return
                round_ = list(alive)
                answers = self._oracle.answer([example.request for example in round_])
                for example, answer in zip(round_, answers, strict=True):
                    finished = example.resume(answer)
                    if finished is not None:
                        alive.remove(example)
                        yield finished
        finally:
            for example in alive:
                example.close()


class _Example(Generic[ResultT]):
    """One example alive: its coroutine, its random stream and its count of queries."""

    def __init__(self, job: Job[ResultT], seed: int, query_budget: int | None) -> None:
        self.request: Request = Predict(())
        self._job = job
        self._stream = RandomStream(seed, job.id)
        self._query_budget = query_budget
        self._queries = 0
        self._start = time.perf_counter()
        self._search: Search[ResultT] | None = None

    def begin(self) -> Finished[ResultT] | None:
        """Run to the first request; a result if there is none."""
        return self._advance(self._first_step)

    def resume(self, answer: Response | Exception) -> Finished[ResultT] | None:
        """Hand over the response, or raise the exception inside; then as :meth:`begin`."""
        search = self._alive()
        if isinstance(answer, Exception):
            return self._advance(lambda: search.throw(answer))
        return self._advance(lambda: search.send(answer))

    def close(self) -> None:
        """Give up the coroutine, which may still clean up."""
        if self._search is not None:
            with self._stream:
                self._search.close()

    def _first_step(self) -> Request:
        self._search = self._job.start(self._stream.generator)
        return next(self._search)

    def _alive(self) -> Search[ResultT]:
        assert self._search is not None
        return self._search

    def _advance(self, step: Callable[[], Request]) -> Finished[ResultT] | None:
        """Take steps until the example waits for an answer that its budget allows, or ends."""
        refused = False
        while True:
            try:
                with self._stream:
                    request = step()
            except StopIteration as end:
                return self._finished(end.value)
            except QueryBudgetExhaustedError:
                return self._finished(exhausted=True)
            except UserError:
                raise
            except Exception as error:  # an attack may fail in any way
                return self._finished(error=_reason(error))
            size = _queries_of(request)
            if self._query_budget is None or self._queries + size <= self._query_budget:
                self._queries += size
                self.request = request
                return None
            if refused:
                self.close()
                return self._finished(exhausted=True)
            refused = True
            refusal = QueryBudgetExhaustedError(size, self._query_budget - self._queries)
            step = self._refuse(refusal)

    def _refuse(self, refusal: QueryBudgetExhaustedError) -> Callable[[], Request]:
        search = self._alive()
        return lambda: search.throw(refusal)

    def _finished(
        self, value: ResultT | None = None, *, error: str | None = None, exhausted: bool = False
    ) -> Finished[ResultT]:
        seconds = time.perf_counter() - self._start
        return Finished(self._job.id, value, self._queries, seconds, error, exhausted)


def _queries_of(request: Request) -> int:
    """Texts asked; a kind that will not be answered costs nothing."""
    return len(request.texts) if isinstance(request, Predict) else 0


def _reason(error: Exception) -> str:
    """An exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
