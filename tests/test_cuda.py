"""A GPU gives what the CPU gives; skipped where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CLASSIFIERS, GENERATORS, TEXTS, save_tiny

from robustlab.models.batching import DEFAULT_BATCH_TOKENS, default_batch_tokens
from robustlab.models.device import upload
from robustlab.models.load import load_target
from robustlab.models.target import (
    Direction,
    Embed,
    Embeddings,
    Generate,
    Generations,
    Gradient,
    Gradients,
    Predict,
    Predictions,
    Request,
    Score,
    Scores,
    Target,
)
from robustlab.retrieval.encoder import BUILTIN, SentenceEncoder

PLACES = ("cpu", "cuda")
OUTPUTS = ("red", "the old town", "good", "a green house and a tree", "in the north")
PROMPTS = (
    "where do barn owls nest? [SEP] Barn owls nest in old barns.",
    "how deep is the lake? [SEP] The river is long. [SEP] The lake is 40 metres deep in the north.",
    "who built the bridge? [SEP] The stone bridge was built by the queen.",
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def both(spec: str) -> list[Target]:
    return [load_target(spec, device=place, dtype="fp32") for place in PLACES]


def check_gradients(targets: list[Target], request: Request) -> None:
    here, there = (target.answer(request) for target in targets)
    assert isinstance(here, Gradients)
    assert isinstance(there, Gradients)
    for one, other in zip(here.items, there.items, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-3, abs=1e-4)
        assert other.offsets == one.offsets
        scale = float(np.abs(one.gradient).max())
        np.testing.assert_allclose(other.gradient, one.gradient, rtol=1e-2, atol=1e-3 * scale)


def check_predictions(targets: list[Target], texts: tuple[str, ...]) -> None:
    here, there = (target.answer(Predict(texts)) for target in targets)
    assert isinstance(here, Predictions)
    assert isinstance(there, Predictions)
    np.testing.assert_allclose(there.probabilities, here.probabilities, atol=1e-4)


def check_scores(targets: list[Target], prompts: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    here, there = (target.answer(Score(prompts, outputs)) for target in targets)
    assert isinstance(here, Scores)
    assert isinstance(there, Scores)
    np.testing.assert_allclose(there.log_probs, here.log_probs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(tmp_path: Path, name: str) -> None:
    targets = both(str(save_tiny(name, tmp_path)))
    check_predictions(targets, TEXTS)
    check_gradients(targets, Gradient(TEXTS, (0, 1, 2, 0, 1)))


@pytest.mark.parametrize("name", GENERATORS)
def test_generators(tmp_path: Path, name: str) -> None:
    targets = both(str(save_tiny(name, tmp_path)))
    check_scores(targets, TEXTS, OUTPUTS)
    # What they share is long enough to be read once, where the model can.
    prompts = tuple(f"{'the old town ' * 10}{text}" for text in TEXTS[:2] * 8)
    check_scores(targets, prompts, ("red",) * len(prompts))
    check_gradients(targets, Gradient(TEXTS, OUTPUTS))
    there = targets[1].answer(Generate(TEXTS, 4))
    assert isinstance(there, Generations)
    assert np.isfinite(there.log_probs).all()


def test_the_builtin_classifier() -> None:
    targets = both("builtin:classifier")
    check_predictions(targets, TEXTS)
    check_gradients(targets, Gradient(TEXTS, (0, 1, 0, 1, 0)))
    assert targets[0].fingerprint() == targets[1].fingerprint()


@pytest.mark.parametrize("name", ["builtin:seq2seq", "builtin:causal"])
def test_the_builtin_readers(name: str) -> None:
    targets = both(name)
    outputs = ("old barns", "40 metres", "the queen")
    here, there = (target.answer(Generate(PROMPTS, 12)) for target in targets)
    assert isinstance(here, Generations)
    assert isinstance(there, Generations)
    assert there.texts == here.texts
    np.testing.assert_allclose(there.log_probs, here.log_probs, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(there.margins, here.margins, rtol=1e-2, atol=1e-3)
    check_scores(targets, PROMPTS, outputs)
    check_gradients(targets, Gradient(PROMPTS, outputs))


def test_the_sentence_encoder() -> None:
    encoders = [SentenceEncoder.load(BUILTIN, device=place, dtype="fp32") for place in PLACES]
    here, there = (encoder.answer(Embed(TEXTS)) for encoder in encoders)
    assert isinstance(here, Embeddings)
    assert isinstance(there, Embeddings)
    np.testing.assert_allclose(there.vectors, here.vectors, atol=1e-4)
    goals = tuple(Direction(vector) for vector in here.vectors[::-1].copy())
    check_gradients([*encoders], Gradient(TEXTS, goals))


def test_the_default_dtype_changes_little() -> None:
    exact = load_target("builtin:classifier", device="cpu", dtype="fp32").answer(Predict(TEXTS))
    usual = load_target("builtin:classifier", device="cuda").answer(Predict(TEXTS))
    assert isinstance(exact, Predictions)
    assert isinstance(usual, Predictions)
    np.testing.assert_allclose(usual.probabilities, exact.probabilities, atol=0.05)


def test_an_upload_is_what_was_sent_whatever_becomes_of_the_array() -> None:
    device = torch.device("cuda")
    for shape in ((0,), (3, 0), (1000, 1000)):
        array = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
        sent = upload(array, device)
        expected = array.copy()
        array += 1
        assert sent.device.type == "cuda"
        np.testing.assert_array_equal(sent.cpu().numpy(), expected)
    assert default_batch_tokens(device) > DEFAULT_BATCH_TOKENS
