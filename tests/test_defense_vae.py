"""The autoencoder of embeddings: what it learns, its gradients, and an index behind it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from retrieval_corpus import ASKED, CORPUS, minilm

from robustlab.data.records import Corpus, Passage
from robustlab.defense.denoised import DenoisedEncoder, denoised_index
from robustlab.defense.protocols import EmbeddingDefense, EmbeddingDetector
from robustlab.defense.vae import (
    Vae,
    VaeDenoiser,
    VaeFilter,
    VaeSettings,
    fit_vae,
    fit_vae_filter,
)
from robustlab.models.target import Direction, Embed, Gradient
from robustlab.retrieval import DenseIndex

SETTINGS = VaeSettings(
    hidden=16, latent=3, beta=0.01, noise=0.1, steps=120, batch=32, learning_rate=0.02
)


def sphere(rows: int, *, flat: bool, seed: int = 0) -> np.ndarray:
    """Unit vectors of width 12; ``flat`` ones lie in the first three dimensions."""
    drawn = np.random.default_rng(seed).normal(size=(rows, 12))
    if flat:
        drawn[:, 3:] *= 0.02
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


class Lookup:
    """An encoder of texts that are numbers of rows."""

    spec = "lookup"

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def encode(self, texts, *, role=None, progress=None):
        assert role == "document"
        return self.vectors[[int(text) for text in texts]]


@cache
def flat_filter(seed: int = 0, fit: int = 0) -> tuple[VaeFilter, np.ndarray]:
    """A filter fitted on 100 flat vectors, and these with 50 of each kind behind them.

    ``fit`` tells apart fits that should be the same.
    """
    del fit
    clean = sphere(100, flat=True)
    every = np.concatenate([clean, sphere(50, flat=True, seed=1), sphere(50, flat=False, seed=2)])
    corpus = Corpus("c", tuple(Passage(str(i), "", str(i)) for i in range(100)))
    found = fit_vae_filter(
        corpus, Lookup(every), clean, SETTINGS,
        name="vae", false_positive_rate=0.05, folds=3, sample=1000, seed=seed,
    )  # fmt: skip
    return found, every


@cache
def fitted() -> Vae:
    return fit_vae(sphere(200, flat=True), SETTINGS, 0)


def test_strange_embeddings_are_told_from_clean_ones_that_were_never_seen() -> None:
    found, _ = flat_filter()
    assert isinstance(found, EmbeddingDetector)
    known = found.suspicion([str(i) for i in range(100)])
    new = found.suspicion([str(i) for i in range(100, 150)])
    strange = found.suspicion([str(i) for i in range(150, 200)])
    assert np.mean(known > found.threshold) == 0.05
    assert np.mean(new > found.threshold) <= 0.2
    assert np.mean(strange > found.threshold) >= 0.95


def test_the_same_seed_gives_the_same_filter_and_another_seed_another() -> None:
    one, again, other = flat_filter()[0], flat_filter(fit=1)[0], flat_filter(1)[0]
    assert one.threshold == pytest.approx(again.threshold, rel=1e-9)
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()


def test_slopes_are_the_change_of_the_suspicion() -> None:
    vae = fitted()
    at = sphere(4, flat=False, seed=3)
    step = 1e-3 * sphere(4, flat=False, seed=4)
    change = vae.suspicion(at + step) - vae.suspicion(at - step)
    assert 2 * (vae.slopes(at) * step).sum(1) == pytest.approx(change, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_denoiser_pulls_directions_back_through_itself(share: float) -> None:
    denoiser = VaeDenoiser("d", fitted(), share, {})
    assert isinstance(denoiser, EmbeddingDefense)
    at, wanted = sphere(4, flat=False, seed=3), sphere(4, flat=False, seed=5)
    step = 1e-3 * sphere(4, flat=False, seed=4)
    up, down = ((denoiser.denoise(at + s) * wanted).sum(1) for s in (step, -step))
    pulled = denoiser.pull_back(at, wanted)
    assert 2 * (pulled * step).sum(1) == pytest.approx(up - down, rel=2e-2, abs=2e-6)


def test_denoised_embeddings_are_nearer_to_clean_ones() -> None:
    denoiser = VaeDenoiser("d", fitted(), 1.0, {})
    clean = sphere(50, flat=True, seed=6)
    noisy = clean + 0.3 * sphere(50, flat=False, seed=7)
    noisy = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
    denoised = denoiser.denoise(noisy)
    assert np.linalg.norm(denoised, axis=1) == pytest.approx(np.ones(50), abs=1e-5)
    assert (denoised * clean).sum(1).mean() > (noisy * clean).sum(1).mean()


class Turned:
    """A denoiser that turns the first two dimensions by a quarter."""

    name = "turned"

    def denoise(self, vectors):
        turned = vectors.copy()
        turned[:, 0], turned[:, 1] = -vectors[:, 1], vectors[:, 0]
        return turned

    def pull_back(self, vectors, directions):
        pulled = directions.copy()
        pulled[:, 0], pulled[:, 1] = directions[:, 1], -directions[:, 0]
        return pulled

    def describe(self):
        return {"name": self.name}

    def fingerprint(self):
        return "turned"


def test_an_index_turned_on_both_sides_finds_the_same() -> None:
    base = DenseIndex.build(CORPUS, minilm())
    turned = denoised_index(base, [Turned()])
    questions = list(ASKED)
    added = [[Passage("n", "", "A violin has five strings.")]] * len(questions)
    for found, expected in (
        (turned.search(questions, 5), base.search(questions, 5)),
        (turned.search_with(questions, added, 5), base.search_with(questions, added, 5)),
    ):
        assert [[hit.passage.id for hit in hits] for hits in found] == [
            [hit.passage.id for hit in hits] for hits in expected
        ]
    assert turned.fingerprint() != base.fingerprint()
    assert turned.describe()["encoder"]["denoised_by"] == ["turned"]


def test_a_gradient_goes_through_the_denoiser() -> None:
    encoder = DenoisedEncoder(minilm(), [Turned()])
    text = "The heron stands still."
    direction = sphere_like(minilm().encode(["fish"])[0])
    through = encoder.answer(Gradient((text,), (Direction(direction),))).items[0]
    pulled = Turned().pull_back(None, direction[None])[0]
    plain = minilm().answer(Gradient((text,), (Direction(pulled),))).items[0]
    assert through.gradient == pytest.approx(plain.gradient, abs=1e-6)
    (vector,) = encoder.answer(Embed((text,))).vectors
    assert through.loss == pytest.approx(-float(vector @ direction), abs=1e-5)


def sphere_like(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)
