from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from attack_fakes import WordEncoder, WordGenerator, WordTarget
from tiny import WORDS, save_tiny

from robustlab.attack.oracle import Oracle
from robustlab.attack.rounding import NOISE, TOKEN_NOISE
from robustlab.errors import UserError
from robustlab.models.load import load_target
from robustlab.models.target import (
    Embed,
    Embeddings,
    Generate,
    Generations,
    Gradient,
    Gradients,
    Predict,
    Predictions,
    Request,
    Response,
    Score,
    Scores,
    Target,
)

TEXTS = tuple(f"good word{i} and bad word{i * 7}" for i in range(400))


def probabilities(answer: object) -> np.ndarray:
    assert isinstance(answer, Predictions)
    return answer.probabilities


def items_of(request: Request) -> tuple[Any, ...]:
    return request.prompts if isinstance(request, Generate | Score) else request.texts


def request_for(kind: type[Request], texts: tuple[str, ...]) -> Request:
    """Texts as a request of some kind; all else is the same for all."""
    if kind is Score:
        return Score(texts, ("yes",) * len(texts))
    if kind is Gradient:
        return Gradient(texts, ("yes",) * len(texts))
    return kind(texts)


def test_requests_are_merged_and_every_text_is_read_once() -> None:
    target = WordTarget(dtype="bf16")
    oracle = Oracle(target)
    first, second = oracle.answer([Predict(("a", "good", "a")), Predict(("bad", "good"))])
    assert target.batches == [("a", "good", "bad")]
    assert probabilities(first).shape == (3, 2)
    np.testing.assert_array_equal(probabilities(first)[1], probabilities(second)[1])
    np.testing.assert_array_equal(probabilities(first)[0], probabilities(first)[2])
    assert (oracle.stats.forwarded, oracle.stats.duplicates, oracle.stats.cached) == (3, 2, 0)


def test_each_kind_is_merged_by_itself_and_everybody_gets_their_own() -> None:
    target = WordGenerator(dtype="bf16")
    answers = Oracle(target).answer(
        [
            Generate(("good",), 8),
            Score(("good", "bad"), ("yes", "yes")),
            Generate(("bad",), 4),
            Score(("good", "good"), ("no", "yes")),
            Generate(("bad", "good"), 8),
        ]
    )
    assert target.requests == [
        Generate(("good", "bad"), 8),
        Score(("good", "bad", "good"), ("yes", "yes", "no")),
        Generate(("bad",), 4),
    ]
    generated = [answer.texts for answer in answers if isinstance(answer, Generations)]
    assert generated == [("yes",), ("no",), ("no", "yes")]
    scored = [answer.log_probs for answer in answers if isinstance(answer, Scores)]
    np.testing.assert_allclose(scored[0], [-0.2014, -1.7014], atol=1e-3)  # log 1 / (1 + exp(∓1.5))
    np.testing.assert_allclose(scored[1], [-1.7014, -0.2014], atol=1e-3)
    assert [answer.tokens.tolist() for answer in answers if isinstance(answer, Scores)] == [
        [2, 2],
        [2, 2],
    ]


def test_gradients_are_asked_one_text_at_a_time() -> None:
    target = WordGenerator(noise=0.1)
    oracle = Oracle(target)
    first, second = oracle.answer(
        [Gradient(("good", "a bad end"), ("yes", "yes")), Gradient(("good",), ("no",))]
    )
    assert target.requests == [
        Gradient(("good",), ("yes",)),
        Gradient(("a bad end",), ("yes",)),
        Gradient(("good",), ("no",)),
    ]
    assert isinstance(first, Gradients)
    assert isinstance(second, Gradients)
    assert [item.gradient.shape for item in first.items] == [(1, 2), (3, 2)]
    assert oracle.stats.forwarded == 3


def test_gradients_are_kept_and_nobody_can_spoil_them() -> None:
    target = WordGenerator()
    oracle = Oracle(target)
    request = Gradient(("good day",), ("yes",))
    (first,) = oracle.answer([request])
    assert isinstance(first, Gradients)
    expected = first.items[0].gradient.copy()
    first.items[0].gradient[:] = 0
    (again,) = oracle.answer([request])
    assert isinstance(again, Gradients)
    np.testing.assert_array_equal(again.items[0].gradient, expected)
    assert len(target.requests) == 1


def test_shifts_go_with_their_texts_and_are_not_kept() -> None:
    target = WordGenerator()
    oracle = Oracle(target, cache_bytes=2**20)
    shifts = (np.float32([[1, 2]]), np.float32([[3, 4], [5, 6]]))
    request = Gradient(("good", "bad end"), ("yes", "yes"), shifts)
    plain = Gradient(("good", "bad end"), ("yes", "yes"))
    shifted, unshifted, again = oracle.answer([request, plain, request])
    assert isinstance(shifted, Gradients)
    assert isinstance(unshifted, Gradients)
    assert isinstance(again, Gradients)
    for item, bare, shift in zip(shifted.items, unshifted.items, shifts, strict=True):
        np.testing.assert_allclose(item.gradient - bare.gradient, shift, atol=1e-6)
    assert len(target.requests) == 2 * len(shifts) + 2
    oracle.answer([request, plain])
    assert len(target.requests) == 3 * len(shifts) + 2


def test_embed_goes_to_the_encoder_and_is_counted_apart() -> None:
    target, encoder = WordTarget(), WordEncoder()
    oracle = Oracle(target, encoder=encoder)
    first, _, second = oracle.answer([Embed(("a b", "c")), Predict(("a b",)), Embed(("b a", "c"))])
    assert encoder.batches == [("a b", "c", "b a")]
    assert target.batches == [("a b",)]
    assert isinstance(first, Embeddings)
    assert isinstance(second, Embeddings)
    np.testing.assert_allclose(first.vectors[0], second.vectors[0], atol=1e-6)
    assert (oracle.stats.embedded, oracle.stats.forwarded) == (3, 1)


def test_without_an_encoder_embed_goes_to_a_target_that_can() -> None:
    (answer,) = Oracle(WordEncoder()).answer([Embed(("a b",))])
    assert isinstance(answer, Embeddings)
    (refused,) = Oracle(WordTarget()).answer([Embed(("a b",))])
    assert isinstance(refused, TypeError)
    assert "no encoder" in str(refused)


def test_answers_are_kept_and_the_oldest_given_up() -> None:
    target = WordTarget(dtype="bf16")
    oracle = Oracle(target, cache_bytes=1000)  # enough for two short texts
    oracle.answer([Predict(("a", "b"))])
    oracle.answer([Predict(("a",))])  # from the cache, and "b" is now the older one
    oracle.answer([Predict(("c",))])
    oracle.answer([Predict(("a",)), Predict(("b",))])
    assert target.batches == [("a", "b"), ("c",), ("b",)]
    assert (oracle.stats.forwarded, oracle.stats.cached) == (4, 2)


def test_the_bound_holds_over_all_kinds_by_what_they_weigh() -> None:
    long = "word " * 500  # its gradient: some 50 kB with the spans
    asked: list[Request] = [Generate(("a",)), Score(("a",), ("b",)), Gradient((long,), ("yes",))]

    def read_again(cache_bytes: int) -> list[Request]:
        target = WordGenerator()
        oracle = Oracle(target, cache_bytes=cache_bytes)
        for request in asked + asked:
            oracle.answer([request])
        return target.requests[len(asked) :]

    assert read_again(100_000) == []
    assert read_again(10_000) == asked[2:]  # too large to be kept, and the others stay
    assert read_again(600) == asked  # room for one of the small ones
    assert read_again(0) == asked


@pytest.mark.parametrize("kind", [Predict, Generate, Score, Embed, Gradient])
def test_nothing_asked_is_answered_without_the_target(kind: type[Request]) -> None:
    target = WordTarget() if kind is Predict else WordGenerator()
    (answer,) = Oracle(target, encoder=WordEncoder()).answer([request_for(kind, ())])
    assert not isinstance(answer, Exception)
    if isinstance(answer, Predictions):
        assert answer.probabilities.shape == (0, 2)
    if isinstance(answer, Generations):
        assert (answer.texts, answer.margins.shape) == ((), (0,))
    assert not (target.batches if isinstance(target, WordTarget) else target.requests)


def answers_in_groups(target: Target, kind: type[Request], size: int) -> np.ndarray:
    oracle = Oracle(target, cache_bytes=0)
    found = []
    for start in range(0, len(TEXTS), size):
        (answer,) = oracle.answer([request_for(kind, TEXTS[start : start + size])])
        found.append(numbers(answer))
    return np.concatenate(found)


def numbers(answer: Response | Exception) -> np.ndarray:
    """All numbers of a response, a row an item; a text is a number, too."""
    if isinstance(answer, Predictions):
        return answer.probabilities
    if isinstance(answer, Scores):
        return np.stack([answer.log_probs, answer.tokens], axis=1)
    if isinstance(answer, Gradients):
        return np.stack([np.append(item.gradient.sum(axis=0), item.loss) for item in answer.items])
    assert isinstance(answer, Generations)
    texts = [float(sum(text.encode())) for text in answer.texts]
    return np.stack([texts, answer.log_probs, answer.tokens, answer.margins], axis=1)


# A log-probability moves by at most as much as x, of which the fake makes it.
NOISES = {Predict: NOISE, Generate: 2 * TOKEN_NOISE, Score: 2 * TOKEN_NOISE, Gradient: 0.1}


@pytest.mark.parametrize("size", [3, 50, 400])
@pytest.mark.parametrize("kind", list(NOISES))
def test_answers_do_not_depend_on_the_batch(kind: type[Request], size: int) -> None:
    make = WordTarget if kind is Predict else WordGenerator
    merged = answers_in_groups(make(noise=NOISES[kind]), kind, size)
    np.testing.assert_array_equal(merged, answers_in_groups(make(), kind, 1))


@pytest.mark.parametrize("kind", [Predict, Generate, Score])
def test_without_the_second_look_some_do(kind: type[Request]) -> None:
    make = WordTarget if kind is Predict else WordGenerator
    merged = answers_in_groups(make(noise=NOISES[kind], dtype="bf16"), kind, 50)
    assert (merged != answers_in_groups(make(dtype="bf16"), kind, 1)).any()


def test_a_text_that_hung_on_the_noise_is_generated_again_alone() -> None:
    # The weights of both words cancel out: which text comes out is chosen by noise.
    target = WordGenerator(noise=4e-5)
    torn = tuple(f"{'good ' * n}{'bad ' * n}".strip() for n in range(1, 30))
    (answer,) = Oracle(target).answer([Generate(torn)])
    assert isinstance(answer, Generations)
    assert answer.texts == ("no",) * len(torn)
    assert len(target.requests) == 1 + len(torn)
    turned = Oracle(WordGenerator(noise=4e-5, dtype="bf16")).answer([Generate(torn)])[0]
    assert isinstance(turned, Generations)
    assert "yes" in turned.texts


def test_second_looks_are_counted_with_the_noise_they_found() -> None:
    oracle = Oracle(WordTarget(noise=NOISE))
    oracle.answer([Predict(TEXTS)])
    assert 4 <= oracle.stats.rechecked <= 40  # 4 % of 400 are expected
    assert 0 < oracle.stats.largest_noise <= 1.01
    assert oracle.stats.forwarded == len(TEXTS)
    assert oracle.stats.model_seconds > 0


def test_a_pipeline_is_looked_at_again_if_its_generator_computes_in_fp32() -> None:
    class Pipeline(WordTarget):
        def describe(self) -> dict[str, Any]:
            return {"kind": "rag", "generator": super().describe()}

    fine, coarse = Oracle(Pipeline(noise=NOISE)), Oracle(Pipeline(noise=NOISE, dtype="bf16"))
    for oracle in (fine, coarse):
        oracle.answer([Predict(TEXTS)])
    assert fine.stats.rechecked > 0 == coarse.stats.rechecked


def test_a_text_that_cannot_be_read_costs_only_those_who_asked_for_it() -> None:
    oracle = Oracle(WordTarget(unreadable=frozenset({"\x00"})))
    good, bad, also = oracle.answer([Predict(("a",)), Predict(("b", "\x00")), Predict(("c",))])
    assert probabilities(good).shape == probabilities(also).shape == (1, 2)
    assert isinstance(bad, RuntimeError)


def test_other_kinds_of_request_are_refused_one_by_one() -> None:
    nothing: Any = None
    answers = Oracle(WordTarget()).answer([Generate(("a",)), nothing, Predict(("a",))])
    assert [type(answer) for answer in answers] == [TypeError, TypeError, Predictions]
    assert str(answers[0]) == "fake:words (classifier) does not answer Generate"
    assert "NoneType" in str(answers[1])


def test_requests_that_do_not_pair_up_are_refused() -> None:
    unpaired = [
        Score(("a", "b"), ("yes",)),
        Gradient(("a",), ()),
        Gradient(("a", "b"), ("yes", "no"), (np.zeros((1, 2), dtype=np.float32),)),
    ]
    *refused, answered = Oracle(WordGenerator()).answer([*unpaired, Score(("a",), ("yes",))])
    assert [type(answer) for answer in refused] == [ValueError] * 3
    assert "2 prompts and 1 outputs" in str(refused[0])
    assert isinstance(answered, Scores)


def test_a_text_that_the_target_refuses_costs_only_its_own() -> None:
    class Short(WordTarget):
        def answer(self, request: Request) -> Response:
            if "too long" in items_of(request):
                raise UserError("text 1 has 600 tokens")
            return super().answer(request)

    refused, answered = Oracle(Short()).answer([Predict(("too long",)), Predict(("a",))])
    assert isinstance(refused, ValueError)
    assert not isinstance(refused, UserError)
    assert str(refused) == "text 1 has 600 tokens"
    assert not isinstance(answered, Exception)


def test_answers_that_are_none_are_told() -> None:
    class Wrong(WordTarget):
        def answer(self, request: Request) -> Response:
            if "short" in items_of(request):
                return Predictions(np.zeros((0, 2), dtype=np.float32))
            return Embeddings(np.zeros((1, 2), dtype=np.float32))

    other, short = Oracle(Wrong()).answer([Predict(("a",)), Predict(("short",))])
    assert isinstance(other, TypeError)
    assert "answered Predict with Embeddings" in str(other)
    assert isinstance(short, ValueError)
    assert "1 texts with 0" in str(short)


@pytest.mark.parametrize("kind", [Generate, Score])
def test_what_does_not_fit_into_memory_is_asked_in_halves(kind: type[Request]) -> None:
    target = WordGenerator(most=3, dtype="bf16")
    oracle = Oracle(target)
    first, second = oracle.answer([request_for(kind, TEXTS[:6]), request_for(kind, TEXTS[4:8])])
    assert [len(items_of(request)) for request in target.requests] == [8, 4, 2, 2, 4, 2, 2]
    assert oracle.stats.halved == 3
    assert oracle.stats.forwarded == 8
    whole = Oracle(WordGenerator(dtype="bf16"))
    expected = whole.answer([request_for(kind, TEXTS[:6]), request_for(kind, TEXTS[4:8])])
    np.testing.assert_array_equal(numbers(first), numbers(expected[0]))
    np.testing.assert_array_equal(numbers(second), numbers(expected[1]))


@pytest.mark.parametrize("kind", [Generate, Score, Gradient])
def test_a_text_that_never_fits_costs_only_those_who_asked_for_it(kind: type[Request]) -> None:
    target = WordGenerator(huge=frozenset({"huge"}))
    oracle = Oracle(target)
    requests = [request_for(kind, texts) for texts in (("a", "b"), ("c", "huge", "d"), ("d", "e"))]
    first, failed, last = oracle.answer(requests)
    assert isinstance(failed, RuntimeError)
    assert "out of memory" in str(failed)
    assert len(numbers(first)) == len(numbers(last)) == 2
    read = [item for request in target.requests for item in items_of(request)]
    assert read.count("e") <= 3  # once with all, once in each half that it was in
    again = len(target.requests)
    oracle.answer([requests[0], requests[2]])
    assert len(target.requests) == again  # whatever could be read is kept


@pytest.mark.parametrize(
    ("error", "halved"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12"), True),
        (MemoryError(), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_want_of_memory_is_told_from_other_failures(error: Exception, halved: bool) -> None:
    class Failing(WordTarget):
        def answer(self, request: Request) -> Response:
            if len(items_of(request)) > 1:
                raise error
            return super().answer(request)

    oracle = Oracle(Failing())
    (answer,) = oracle.answer([Predict(("a", "b"))])
    assert isinstance(answer, Predictions) is halved
    assert oracle.stats.halved == int(halved)


def test_the_time_of_target_and_encoder_is_counted_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]

    class SlowTarget(WordTarget):
        def answer(self, request: Request) -> Response:
            now[0] += 1
            return super().answer(request)

    class SlowEncoder(WordEncoder):
        def answer(self, request: Request) -> Response:
            now[0] += 10
            return super().answer(request)

    monkeypatch.setattr(
        "robustlab.attack.oracle.time", SimpleNamespace(perf_counter=lambda: now[0])
    )
    target = SlowTarget(dtype="bf16", unreadable=frozenset({"?"}))
    oracle = Oracle(target, encoder=SlowEncoder())
    now[0] += 100
    oracle.answer([Predict(("a", "b")), Embed(("a",))])
    assert oracle.stats.model_seconds == 11
    now[0] += 100
    oracle.answer([Predict(("?",))])  # fails, and takes its time all the same
    assert oracle.stats.model_seconds == 12
    oracle.fresh(Predict(("a", "b")))
    assert oracle.stats.model_seconds == 14


def test_a_fresh_look_is_unrounded_alone_and_past_the_cache() -> None:
    target = WordTarget(dtype="bf16")
    oracle = Oracle(target)
    (kept,) = oracle.answer([Predict(("a good day", "b"))])
    target.weights["good"] = 0.3
    fresh = probabilities(oracle.fresh(Predict(("a good day", "b"))))
    assert target.batches[1:] == [("a good day",), ("b",)]
    assert fresh[0, 1] < probabilities(kept)[0, 1]
    (again,) = oracle.answer([Predict(("a good day",))])
    np.testing.assert_array_equal(probabilities(again)[0], probabilities(kept)[0])
    assert oracle.stats.forwarded == 2


def test_a_judge_answers_in_the_place_of_the_target() -> None:
    target, judge, encoder = WordTarget(), WordTarget(), WordEncoder()
    oracle = Oracle(target, encoder=encoder)
    judge.weights["good"] = -9.0
    judged = probabilities(oracle.fresh(Predict(("good",)), judge=judge))
    assert judged[0, 0] > 0.99
    assert target.batches == []
    embedded = oracle.fresh(Embed(("a", "b")), judge=judge)
    assert isinstance(embedded, Embeddings)
    assert encoder.batches == [("a",), ("b",)]


@pytest.mark.parametrize("kind", [Generate, Score, Gradient])
def test_every_kind_can_be_asked_freshly(kind: type[Request]) -> None:
    target = WordGenerator(noise=1.0)
    response = Oracle(target).fresh(request_for(kind, TEXTS[:3]))
    assert [len(items_of(request)) for request in target.requests] == [1, 1, 1]
    raw = [WordGenerator().answer(request_for(kind, (text,))) for text in TEXTS[:3]]
    np.testing.assert_array_equal(numbers(response), np.concatenate([numbers(r) for r in raw]))


def test_a_fresh_look_at_what_nobody_answers_is_refused() -> None:
    with pytest.raises(TypeError, match="does not answer Score"):
        Oracle(WordTarget()).fresh(Score(("a",), ("b",)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {name: save_tiny(name, folder / name) for name in ("bert", "t5", "llama")}


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("bert", Predict, 40),
        ("bert", Gradient, 8),
        ("t5", Score, 24),
        ("t5", Generate, 24),
        ("llama", Score, 24),
        ("llama", Generate, 24),
    ],
)
def test_real_models_answer_alike_in_batches_of_every_size(
    folders: dict[str, Path], name: str, kind: type[Request], count: int
) -> None:
    rng = np.random.default_rng(5)
    texts = tuple(" ".join(rng.choice(WORDS, rng.integers(2, 12))) for _ in range(count))

    def ask(some: tuple[str, ...]) -> Request:
        if kind is Gradient:
            return Gradient(some, (1,) * len(some))
        return Generate(some, 6) if kind is Generate else request_for(kind, some)

    def answered(batch_tokens: int, size: int) -> np.ndarray:
        folder = str(folders[name])
        target = load_target(folder, device="cpu", dtype="fp32", batch_tokens=batch_tokens)
        oracle = Oracle(target, cache_bytes=0)
        parts: list[Response | Exception] = []
        for start in range(0, count, size):
            parts += oracle.answer([ask(texts[start : start + size])])
        assert oracle.stats.largest_noise <= 1
        return np.concatenate([numbers(part) for part in parts])

    alone = answered(4096, 1)
    np.testing.assert_array_equal(answered(4096, count), alone)
    np.testing.assert_array_equal(answered(50, 8), alone)
