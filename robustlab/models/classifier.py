"""Text classifiers: BERT, RoBERTa, ALBERT, DeBERTa, BigBird and their kin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robustlab.errors import UserError
from robustlab.models._describe import describe_module
from robustlab.models._generator import UNLIMITED
from robustlab.models._gradients import EmbeddingTap, checked_shifts
from robustlab.models._transformers import pad_batch, position_limit, settle
from robustlab.models.batching import DEFAULT_BATCH_TOKENS, pack
from robustlab.models.fingerprint import fingerprint
from robustlab.models.target import (
    Gradient,
    Gradients,
    Predict,
    Predictions,
    Request,
    Response,
    TextInput,
    TokenGradient,
    Vocabulary,
)
from robustlab.models.vocabulary import read_vocabulary

if TYPE_CHECKING:
    import torch

__all__ = ["ClassifierTarget"]


class _Encoded(NamedTuple):
    """One text or pair as the model reads it, cut to the model's limit."""

    ids: list[int]
    types: list[int]
    offsets: tuple[tuple[int, int], ...]


class ClassifierTarget:
    """A sequence classifier that answers Predict and Gradient.

    Texts longer than the model's own limit are cut there by its tokenizer, as its users do; the
    longer text of a pair is cut first. In a pair's :class:`TokenGradient` the offsets of the
    second text's tokens, which come after the first's, count from the start of the second text.

    Encoder-decoder classifiers (BART, T5) read their input twice; a gradient at the encoder alone
    would be half of it, so these answer Predict only.

    Args:
        spec: the text that named it.
        model: a ``…ForSequenceClassification``; it is put into eval mode, frozen and moved.
        tokenizer: its fast tokenizer.
        device: where to run.
        dtype: of weights and activations.
        batch_tokens: the most tokens in a forward pass, padding included.

    Raises:
        UserError: a model that does not choose one of at least two classes.
    """

    kind = "classifier"

    def __init__(
        self,
        spec: str,
        model: Any,
        tokenizer: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> None:
        config = model.config
        if config.num_labels < 2:
            raise UserError(
                f"'{spec}' has {config.num_labels} label, which is a regression head: "
                "a classifier needs at least two labels."
            )
        if getattr(config, "problem_type", None) == "multi_label_classification":
            raise UserError(
                f"'{spec}' gives a text several labels at once (problem_type is "
                "multi_label_classification): a classifier needs exclusive labels."
            )
        self._spec = spec
        self._model = settle(model, device, dtype)
        self._tokenizer = tokenizer
        self._device = device
        self._batch_tokens = batch_tokens
        self._limit = position_limit(model, config, tokenizer)
        names = {int(index): str(name) for index, name in config.id2label.items()}
        self._label_names = tuple(names[index] for index in range(config.num_labels))
        self._reads_types = getattr(config, "type_vocab_size", 0) > 1
        # Decoder-only classifiers find the last token as the last one that is not the pad token,
        # and refuse batches without one. The user's files are not touched.
        if getattr(config, "pad_token_id", None) is None:
            pad = tokenizer.pad_token_id
            config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
        self._pad_id: int = config.pad_token_id or 0
        self._vocabulary: Vocabulary | None = None

    @property
    def spec(self) -> str:
        """The text that named it."""
        return self._spec

    @property
    def model(self) -> Any:
        """The model itself, frozen and in eval mode: for training, which copies it first."""
        return self._model

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self._tokenizer

    @property
    def limit(self) -> int:
        """The longest text in tokens."""
        return self._limit

    @property
    def answers(self) -> frozenset[type[Request]]:
        """Predict and, for encoder-only and decoder-only models, Gradient."""
        if self._model.config.is_encoder_decoder:
            return frozenset({Predict})
        return frozenset({Predict, Gradient})

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names by index."""
        return self._label_names

    def answer(self, request: Request) -> Response:
        """Answer a batch of any size.

        Raises:
            TypeError: a kind of request that is not in :attr:`answers`.
        """
        if type(request) in self.answers:
            if isinstance(request, Predict):
                return self._predict(request)
            if isinstance(request, Gradient):
                return self._gradient(request)
        raise TypeError(f"{self._spec} ({self.kind}) does not answer {type(request).__name__}")

    def fingerprint(self) -> str:
        """SHA-256 over the weights as they are now."""
        return fingerprint(self._model)

    def describe(self) -> Mapping[str, Any]:
        """What goes into the manifest."""
        return describe_module(self._spec, self.kind, self._model)

    def vocabulary(self) -> Vocabulary:
        """Tokens and their embeddings, as they are at the first call."""
        if self._vocabulary is None:
            self._vocabulary = read_vocabulary(self._tokenizer, self._input_layer)
        return self._vocabulary

    @property
    def _input_layer(self) -> torch.nn.Embedding:
        layer: torch.nn.Embedding = self._model.get_input_embeddings()
        return layer

    def _predict(self, request: Predict) -> Predictions:
        import torch

        texts = self._encode(request.texts, with_offsets=False)
        probabilities = np.zeros((len(texts), len(self._label_names)), dtype=np.float32)
        order: list[int] = []
        parts: list[torch.Tensor] = []
        with torch.inference_mode():
            for rows in self._pack(texts):
                parts.append(self._logits([texts[i] for i in rows]).softmax(dim=-1))
                order.extend(rows)
            # One copy at the end: a copy after every batch would make a GPU wait for Python.
            if parts:
                probabilities[order] = torch.cat(parts).cpu().numpy()
        return Predictions(probabilities)

    def _gradient(self, request: Gradient) -> Gradients:
        import torch

        goals = self._classes(request)
        texts = self._encode(request.texts, with_offsets=True)
        shifts = checked_shifts(request, [len(text.ids) for text in texts], self._input_layer)
        items: dict[int, TokenGradient] = {}
        for rows in self._pack(texts):
            batch = [texts[i] for i in rows]
            wanted = torch.tensor([goals[i] for i in rows], device=self._device)
            moved = [shifts[i] for i in rows] if shifts else ()
            with torch.enable_grad(), EmbeddingTap(self._input_layer, moved) as tap:
                logits = self._logits(batch)
                losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
                # Rows do not touch each other, so the sum's gradient is each row's own.
                losses.sum().backward()  # type: ignore[no-untyped-call]
            gradients = tap.gradients([len(text.ids) for text in batch])
            probabilities = logits.detach().softmax(dim=-1).cpu().numpy()
            for place, (i, loss) in enumerate(zip(rows, losses.tolist(), strict=True)):
                items[i] = TokenGradient(
                    loss=loss,
                    token_ids=np.array(batch[place].ids, dtype=np.int64),
                    offsets=batch[place].offsets,
                    gradient=gradients[place],
                    probabilities=probabilities[place],
                )
        return Gradients(tuple(items[i] for i in range(len(texts))))

    def _classes(self, request: Gradient) -> list[int]:
        if len(request.texts) != len(request.goals):
            raise ValueError(f"{len(request.texts)} texts have {len(request.goals)} goals")
        goals = [goal for goal in request.goals if isinstance(goal, int)]
        count = len(self._label_names)
        if len(goals) != len(request.goals) or not all(0 <= goal < count for goal in goals):
            raise ValueError(f"a classifier's goals are class indices from 0 to {count - 1}")
        return goals

    def _encode(self, texts: Sequence[TextInput], *, with_offsets: bool) -> list[_Encoded]:
        """Tokenise single texts and pairs, each kind in one call of the tokenizer."""
        encoded: dict[int, _Encoded] = {}
        singles = {i: text for i, text in enumerate(texts) if isinstance(text, str)}
        pairs = {i: text for i, text in enumerate(texts) if not isinstance(text, str)}
        columns: list[tuple[list[int], list[list[str]]]] = [
            (list(singles), [list(singles.values())]),
            (list(pairs), [[pair[0] for pair in pairs.values()], [p[1] for p in pairs.values()]]),
        ]
        for indices, arguments in columns:
            if not indices:
                continue
            batch = self._tokenizer(
                *arguments,
                truncation=self._limit < UNLIMITED,
                max_length=self._limit if self._limit < UNLIMITED else None,
                return_token_type_ids=True,
                return_attention_mask=False,
                return_offsets_mapping=with_offsets,
                verbose=False,
            )
            for row, i in enumerate(indices):
                spans = batch["offset_mapping"][row] if with_offsets else ()
                encoded[i] = _Encoded(
                    ids=batch["input_ids"][row],
                    types=batch["token_type_ids"][row],
                    offsets=tuple((start, end) for start, end in spans),
                )
        return [encoded[i] for i in range(len(texts))]

    def _pack(self, texts: Sequence[_Encoded]) -> list[list[int]]:
        return pack([len(text.ids) for text in texts], self._batch_tokens)

    def _logits(self, batch: Sequence[_Encoded]) -> torch.Tensor:
        """One forward pass: float32, shape (batch, classes)."""
        ids, mask = pad_batch([text.ids for text in batch], self._pad_id, self._device)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._reads_types:
            inputs["token_type_ids"], _ = pad_batch([text.types for text in batch], 0, self._device)
        logits: torch.Tensor = self._model(**inputs).logits
        return logits.float()
