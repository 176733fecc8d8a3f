"""How attacks run: many at once, each written for one example.

An attack is a generator: it yields requests, is resumed with their responses, and returns its
result. The engine keeps many of them alive, hands their requests to the target in one merged
batch a round, and takes care of all that no attack should have to: counting queries and
holding the budgets, random streams, and examples that fail.

What is a query: every text or prompt of every request, as the threat model counts them; a gradient
is one like any other, and only Embed costs nothing, because the encoder is the adversary's own. A
text that was asked before, by the same example or another, is a query too, though it is answered
from memory; what was really read by the model is counted apart, in
:class:`~robustlab.attack.oracle.OracleStats`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from robustlab.attack.cache import CACHE_BYTES
from robustlab.attack.items import queries_of
from robustlab.attack.oracle import Oracle, OracleStats
from robustlab.attack.streams import RandomStream
from robustlab.errors import UserError
from robustlab.models.target import Predict, Request, Response, Target

__all__ = [
    "BudgetExhaustedError",
    "Engine",
    "Finished",
    "Job",
    "QueryBudgetExhaustedError",
    "Search",
    "TimeBudgetExhaustedError",
]

ResultT = TypeVar("ResultT")

Search: TypeAlias = Generator[Request, Response, ResultT]
"""The coroutine of one example."""


class BudgetExhaustedError(Exception):
    """Raised inside an attack, where it yielded a request that it has no budget for.

    The request is not answered and costs nothing. The attack may return the best it has. If it
    lets the exception pass, or yields a request that is refused for the same reason again, its
    example ends there, as exhausted.
    """


class QueryBudgetExhaustedError(BudgetExhaustedError):
    """The request was larger than what is left: ``remaining`` queries may still be asked."""

    def __init__(self, asked: int, remaining: int) -> None:
        super().__init__(f"{asked} queries asked, {remaining} left")
        self.asked = asked
        self.remaining = remaining


class TimeBudgetExhaustedError(BudgetExhaustedError):
    """The example's time is over: no request will be answered any more."""

    def __init__(self, spent: float, budget: float) -> None:
        super().__init__(f"{spent:.1f} s spent of {budget:g} s")
        self.spent = spent
        self.budget = budget


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
    ended by a budget (then ``exhausted`` is set). ``seconds`` is the time from its first step
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

    The result of an example depends on the target, the encoder, the seed, the query budget and the
    example, not on ``concurrency``, on the batch size or on which other examples there are; see
    :mod:`robustlab.attack.rounding` for what this takes. A time budget gives that up: how far an
    attack gets in so many seconds depends on the machine and on the examples beside it.

    Args:
        target: what is attacked.
        seed: of the run; the random stream of an example comes from it and the example's id.
        encoder: answers Embed. Without one the target does, if it can.
        concurrency: how many examples are alive at once.
        query_budget: the most queries of one example; None for no limit.
        seconds_budget: the most time of one example, from its first step on, whatever else is
            done in that time; None for no limit. It is checked when the example asks.
        cache_bytes: memory for answers, roughly.
        exact: False gives up that outcomes do not depend on concurrency and batch size, for speed;
            it is for training examples, of which nothing is reported.
    """

    def __init__(
        self,
        target: Target,
        *,
        seed: int,
        encoder: Target | None = None,
        concurrency: int = 64,
        query_budget: int | None = None,
        seconds_budget: float | None = None,
        cache_bytes: int = CACHE_BYTES,
        exact: bool = True,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        if query_budget is not None and query_budget < 1:
            raise ValueError(f"the query budget must be at least 1, not {query_budget}")
        if seconds_budget is not None and not seconds_budget > 0:
            raise ValueError(f"the time budget must be above 0 s, not {seconds_budget}")
        self._oracle = Oracle(target, encoder=encoder, cache_bytes=cache_bytes, exact=exact)
        self._seed = seed
        self._concurrency = concurrency
        self._terms = _Terms(target.answers, query_budget, seconds_budget)

    @property
    def stats(self) -> OracleStats:
        """What the target was asked up to now, and what it was spared."""
        return self._oracle.stats

    def fresh(self, request: Request, *, judge: Target | None = None) -> Response:
        """The response to a request from passes of its own, exact.

        Each text is read alone and not rounded, nothing is taken from the cache, and it is no
        query. ``judge`` is asked if given, else the target itself; Embed goes to the encoder.

        Raises:
            TypeError: a kind of request that nobody here answers.
        """
        return self._oracle.fresh(request, judge=judge)

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
                    example = _Example(job, self._seed, self._terms)
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


class _Terms(NamedTuple):
    """What holds for every example: kinds of request that cost, and the budgets."""

    answers: frozenset[type[Request]]
    query_budget: int | None
    seconds_budget: float | None


class _Example(Generic[ResultT]):
    """One example alive: its coroutine, its random stream and what it has spent."""

    def __init__(self, job: Job[ResultT], seed: int, terms: _Terms) -> None:
        self.request: Request = Predict(())
        self._job = job
        self._stream = RandomStream(seed, job.id)
        self._terms = terms
        self._queries = 0
        self._start = time.perf_counter()
        self._search: Search[ResultT] | None = None

    def begin(self) -> Finished[ResultT] | None:
        """Run to the first request; a result if there is none."""
        return self._advance(self._first_step)

    def resume(self, answer: Response | Exception) -> Finished[ResultT] | None:
        """Hand over the response, or raise the exception inside; then as :meth:`begin`."""
        if isinstance(answer, Exception):
            return self._advance(self._raising(answer))
        search = self._alive()
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
        """Take steps until the example waits for an answer that its budgets allow, or ends."""
        refused: set[type[BudgetExhaustedError]] = set()
        while True:
            try:
                with self._stream:
                    request = step()
            except StopIteration as end:
                return self._finished(end.value)
            except BudgetExhaustedError:
                return self._finished(exhausted=True)
            except UserError:
                raise
            except Exception as error:  # an attack may fail in any way
                return self._finished(error=_reason(error))
            # What the target does not answer is an error by and by, and costs nothing.
            size = queries_of(request) if type(request) in self._terms.answers else 0
            refusal = self._refusal(size)
            if refusal is None:
                self._queries += size
                self.request = request
                return None
            if type(refusal) in refused:
                self.close()
                return self._finished(exhausted=True)
            refused.add(type(refusal))
            step = self._raising(refusal)

    def _refusal(self, size: int) -> BudgetExhaustedError | None:
        """Why a request of so many queries is not answered, if so."""
        _, most, seconds = self._terms
        spent = time.perf_counter() - self._start
        if seconds is not None and spent > seconds:
            return TimeBudgetExhaustedError(spent, seconds)
        if most is not None and self._queries + size > most:
            return QueryBudgetExhaustedError(size, most - self._queries)
        return None

    def _raising(self, error: Exception) -> Callable[[], Request]:
        search = self._alive()
        return lambda: search.throw(error)

    def _finished(
        self, value: ResultT | None = None, *, error: str | None = None, exhausted: bool = False
    ) -> Finished[ResultT]:
        seconds = time.perf_counter() - self._start
        return Finished(self._job.id, value, self._queries, seconds, error, exhausted)


def _reason(error: Exception) -> str:
    """An exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
