"""A small variational autoencoder of passage embeddings: an anomaly detector and a denoiser.

Kingma & Welling 2014, arXiv:1312.6114; reconstruction as a measure of novelty after An & Cho 2015.
With x an embedding (of unit length, W numbers, centred and scaled as below),

    h = tanh(A x + a),  m = B h + b,  log s² = C h + c,  x̂ = E tanh(D z + d) + e,

z ~ N(m, s²) while learning and z = m afterwards. The loss, and the suspicion of a text, is

    |x - x̂|² / W + beta KL(N(m, s²) || N(0, 1)) / W,

with x less the mean of the clean embeddings, divided by the root mean square of what remains.
Numbers are double precision and every draw comes from the seed, so that two fits are the same to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import Corpus, content_hash
from robustlab.defense.crossfit import clean_sample, folds_of, threshold_at
from robustlab.defense.detector import ThresholdDetector
from robustlab.models.target import FloatArray
from robustlab.retrieval import SentenceEncoder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Vae", "VaeDenoiser", "VaeFilter", "VaeSettings", "fit_vae", "fit_vae_filter"]


@dataclass(frozen=True, slots=True)
class VaeSettings:
    """The numbers that a fit takes.

    ``hidden`` and ``latent`` are widths, ``beta`` weighs the KL term, ``steps`` is the number of
    updates by Adam with ``learning_rate``, each from ``batch`` embeddings with normal noise of
    length ``noise`` (relative to the embeddings' scale) added to what is read, not to what is to
    be reconstructed.
    """

    hidden: int
    latent: int
    beta: float
    noise: float
    steps: int
    batch: int
    learning_rate: float


class Vae:
    """A fitted autoencoder; made by :func:`fit_vae`.

    Args:
        parameters: A, a, B, b, C, c, D, d, E, e as in the module's docstring, doubles.
        mean: of the clean embeddings, (width,).
        scale: root mean square of what remains.
        beta: the weight of the KL term.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], mean: Tensor, scale: float, beta: float
    ) -> None:
        self._parameters = dict(parameters)
        self._mean = mean
        self._scale = scale
        self._beta = beta

    def suspicion(self, vectors: FloatArray) -> NDArray[np.float64]:
        """Reconstruction and KL term of embeddings (texts, width), shape (texts,)."""
        import torch

        with torch.inference_mode():
            found: NDArray[np.float64] = self._suspicion(_double(vectors)).numpy()
        return found

    def slopes(self, vectors: FloatArray) -> FloatArray:
        """d suspicion / d embedding, (texts, width)."""
        import torch

        raw = _double(vectors).requires_grad_()
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(self._suspicion(raw).sum(), raw)
        found: FloatArray = slopes.float().numpy()
        return found

    def denoise(self, vectors: FloatArray) -> FloatArray:
        """Reconstructions of unit length, (texts, width)."""
        import torch

        with torch.inference_mode():
            found: FloatArray = self._denoise(_double(vectors)).float().numpy()
        return found

    def pull_back(self, vectors: FloatArray, directions: FloatArray) -> FloatArray:
        """Jᵀ d, with J the Jacobian of :meth:`denoise` at each vector; all (texts, width)."""
        import torch

        raw = _double(vectors).requires_grad_()
        with torch.enable_grad():
            value = (self._denoise(raw) * _double(directions)).sum()
            (pulled,) = torch.autograd.grad(value, raw)
        found: FloatArray = pulled.float().numpy()
        return found

    def fingerprint(self) -> str:
        """Hash of what was learned, to eight decimals: more would be rounding."""
        parts = [self._mean, *(self._parameters[name] for name in sorted(self._parameters))]
        return content_hash(
            [str(self._beta), f"{self._scale:.8f}", *(_printed(part) for part in parts)]
        )

    def _suspicion(self, raw: Tensor) -> Tensor:
        return _loss(self._parameters, (raw - self._mean) / self._scale, self._beta)

    def _denoise(self, raw: Tensor) -> Tensor:
        from torch.nn.functional import normalize

        read = (raw - self._mean) / self._scale
        mean, _ = _encoded(self._parameters, read)
        return normalize(_decoded(self._parameters, mean) * self._scale + self._mean, dim=1)


def fit_vae(vectors: FloatArray, settings: VaeSettings, seed: int) -> Vae:
    """Fit an autoencoder to clean embeddings, float32 (passages, width)."""
    import torch

    random = torch.Generator().manual_seed(seed)
    clean = _double(vectors)
    mean = clean.mean(dim=0)
    scale = float((clean - mean).square().mean().sqrt()) or 1.0
    data = (clean - mean) / scale
    parameters = _drawn(data.shape[1], settings, random)
    optimizer = torch.optim.Adam(parameters.values(), lr=settings.learning_rate)
    with torch.enable_grad():
        for _ in range(settings.steps):
            rows = torch.randint(len(data), (settings.batch,), generator=random)
            wanted = data[rows]
            shaken = wanted + settings.noise * torch.randn(
                wanted.shape, generator=random, dtype=torch.float64
            )
            drawn = torch.randn((len(rows), settings.latent), generator=random, dtype=torch.float64)
            optimizer.zero_grad(set_to_none=True)
            _loss(parameters, wanted, settings.beta, shaken, drawn).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    learned = {name: parameter.detach() for name, parameter in parameters.items()}
    return Vae(learned, mean, scale, settings.beta)


class VaeFilter(ThresholdDetector):
    """Leaves out passages whose embedding the autoencoder finds stranger than the threshold.

    One autoencoder for each fold (see :mod:`robustlab.defense.crossfit`); made by
    :func:`fit_vae_filter`.
    """

    def __init__(
        self,
        name: str,
        threshold: float,
        numbers: Mapping[str, Any],
        encoder: SentenceEncoder,
        models: Sequence[Vae],
        known: Mapping[str, float],
    ) -> None:
        super().__init__(name, threshold, numbers)
        self._encoder = encoder
        self._models = tuple(models)
        self._known = known

    def suspicion(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Reconstruction and KL term of the embedding of each text, shape (texts,)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = dict(zip(new, self._judge(new, Vae.suspicion).tolist(), strict=True))
        values = [found[text] if text in found else self._known[text] for text in texts]
        return np.array(values, dtype=np.float64)

    def slopes(self, texts: Sequence[str]) -> FloatArray:
        """d suspicion / d embedding at each text, (texts, width)."""
        return self._judge(texts, Vae.slopes).astype(np.float32)

    def fingerprint(self) -> str:
        """Hash of its numbers and of what was learned."""
        return content_hash([super().fingerprint(), *(m.fingerprint() for m in self._models)])

    def _judge(
        self, texts: Sequence[str], judge: Callable[[Vae, FloatArray], NDArray[Any]]
    ) -> NDArray[Any]:
        if not texts:
            return np.empty(0)
        vectors = self._encoder.encode(texts, role="document")
        return _by_fold(self._models, texts, vectors, judge)


def fit_vae_filter(
    corpus: Corpus,
    encoder: SentenceEncoder,
    vectors: FloatArray,
    settings: VaeSettings,
    *,
    name: str,
    false_positive_rate: float,
    folds: int,
    sample: int,
    seed: int,
) -> VaeFilter:
    """A filter by autoencoders of at most ``sample`` clean embeddings, drawn by ``seed``.

    ``vectors`` are those of the corpus's passages in their order, by ``encoder``.
    """
    places = clean_sample(corpus, sample, seed, name)
    clean = [corpus.passages[place].contents for place in places]
    known = vectors[places]
    own = folds_of(clean, folds)
    models = [fit_vae(known[own != fold], settings, seed + fold) for fold in range(folds)]
    scores = _by_fold(models, clean, known, Vae.suspicion)
    numbers = {
        **{field: getattr(settings, field) for field in settings.__slots__},
        "false_positive_rate": false_positive_rate,
        "folds": folds,
        "clean_passages": len(clean),
        "corpus_fingerprint": corpus.fingerprint(),
        "encoder": encoder.spec,
        "seed": seed,
    }
    threshold = threshold_at(scores, false_positive_rate)
    remembered = dict(zip(clean, scores.tolist(), strict=True))
    return VaeFilter(name, threshold, numbers, encoder, models, remembered)


class VaeDenoiser:
    """Replaces embeddings by their reconstructions before the search.

    Args:
        name: what ``--defense`` calls it.
        model: fitted on clean embeddings of the retriever's encoder.
        share: how much of the result is reconstruction; the rest is the embedding itself.
        numbers: what else goes into the manifest.
    """

    def __init__(self, name: str, model: Vae, share: float, numbers: Mapping[str, Any]) -> None:
        self.name = name
        self._model = model
        self._share = share
        self._numbers = dict(numbers)

    def denoise(self, vectors: FloatArray) -> FloatArray:
        """(1 - share) v + share v̂ at unit length, float32 (texts, width)."""
        if not len(vectors):
            return vectors
        return _unit(self._mixed(vectors)).astype(np.float32)

    def pull_back(self, vectors: FloatArray, directions: FloatArray) -> FloatArray:
        """Jᵀ d of :meth:`denoise` at each vector, (texts, width)."""
        mixed = self._mixed(vectors)
        length = np.linalg.norm(mixed, axis=1, keepdims=True)
        unit = mixed / length
        # Through the normalisation: what does not turn the vector has no effect.
        outer = (directions - unit * (unit * directions).sum(1, keepdims=True)) / length
        inner = self._model.pull_back(vectors, outer.astype(np.float32))
        found: FloatArray = ((1 - self._share) * outer + self._share * inner).astype(np.float32)
        return found

    def describe(self) -> Mapping[str, Any]:
        """Name and the numbers that it was made with."""
        return {"name": self.name, "share": self._share, **self._numbers}

    def fingerprint(self) -> str:
        """Hash of its numbers and of what was learned."""
        return content_hash([self.name, str(self._share), self._model.fingerprint()])

    def _mixed(self, vectors: FloatArray) -> NDArray[np.float64]:
        mixed = (1 - self._share) * vectors.astype(np.float64)
        mixed += self._share * self._model.denoise(vectors)
        return mixed


def _by_fold(
    models: Sequence[Vae],
    texts: Sequence[str],
    vectors: FloatArray,
    judge: Callable[[Vae, FloatArray], NDArray[Any]],
) -> NDArray[Any]:
    """Each text judged by the model that is not fitted on its fold."""
    own = folds_of(texts, len(models))
    found: dict[int, Any] = {}
    for fold, model in enumerate(models):
        rows = np.flatnonzero(own == fold)
        if len(rows):
            found |= dict(zip(rows.tolist(), judge(model, vectors[rows]), strict=True))
    return np.stack([found[row] for row in range(len(texts))])


def _drawn(width: int, settings: VaeSettings, random: Any) -> dict[str, Tensor]:
    """Weights from N(0, 1 / inputs), offsets 0."""
    import torch

    shapes = {
        "A": (settings.hidden, width),
        "B": (settings.latent, settings.hidden),
        "C": (settings.latent, settings.hidden),
        "D": (settings.hidden, settings.latent),
        "E": (width, settings.hidden),
    }
    parameters: dict[str, Tensor] = {}
    for name, (rows, columns) in shapes.items():
        drawn = torch.randn((rows, columns), generator=random, dtype=torch.float64)
        parameters[name] = (drawn / columns**0.5).requires_grad_()
        parameters[name.lower()] = torch.zeros(rows, dtype=torch.float64, requires_grad=True)
    return parameters


def _encoded(parameters: Mapping[str, Tensor], read: Tensor) -> tuple[Tensor, Tensor]:
    """m and log s², (batch, latent) each."""
    from torch.nn.functional import linear

    hidden = linear(read, parameters["A"], parameters["a"]).tanh()
    return (
        linear(hidden, parameters["B"], parameters["b"]),
        linear(hidden, parameters["C"], parameters["c"]),
    )


def _decoded(parameters: Mapping[str, Tensor], latent: Tensor) -> Tensor:
    """x̂, (batch, width)."""
    from torch.nn.functional import linear

    hidden = linear(latent, parameters["D"], parameters["d"]).tanh()
    return linear(hidden, parameters["E"], parameters["e"])


def _loss(
    parameters: Mapping[str, Tensor],
    wanted: Tensor,
    beta: float,
    read: Tensor | None = None,
    drawn: Tensor | None = None,
) -> Tensor:
    """Reconstruction and KL term of each row, (batch,).

    ``read`` is what the encoder gets if not the row itself; ``drawn``, (batch, latent), are the
    standard normal numbers behind z, which is m without them.
    """
    mean, log_variance = _encoded(parameters, wanted if read is None else read)
    latent = mean if drawn is None else mean + drawn * (0.5 * log_variance).exp()
    missed = (wanted - _decoded(parameters, latent)).square().mean(dim=1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return missed + beta * divergence / wanted.shape[1]


def _double(vectors: FloatArray) -> Tensor:
    import torch

    return torch.from_numpy(np.asarray(vectors, dtype=np.float64))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _printed(values: Tensor) -> str:
    return " ".join(f"{value:.8f}" for value in values.flatten().tolist())
