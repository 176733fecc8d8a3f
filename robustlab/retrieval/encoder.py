"""Sentence encoders: sentence-transformers models behind the :class:`Target` protocol."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from robustlab.data.records import content_hash
from robustlab.errors import UserError
from robustlab.models._describe import describe_module
from robustlab.models._gradients import EmbeddingTap
from robustlab.models._transformers import pad_batch
from robustlab.models.batching import pack
from robustlab.models.device import resolve_device, resolve_dtype
from robustlab.models.fingerprint import fingerprint
from robustlab.models.load import PICKLES
from robustlab.models.quiet import quiet_transformers
from robustlab.models.target import (
    Direction,
    Embed,
    Embeddings,
    Gradient,
    Gradients,
    Request,
    Response,
    TokenGradient,
    Vocabulary,
)
from robustlab.models.vocabulary import read_vocabulary
from robustlab.resources import minilm_folder

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

__all__ = ["BUILTIN", "Progress", "Role", "SentenceEncoder"]

BUILTIN = "builtin:retriever"

Role: TypeAlias = Literal["query", "document"]
"""What a text is to a search; models trained with a prompt for each take it into account."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of items done and the number in all."""

_DTYPE_NAMES = {"torch.float32": "fp32", "torch.bfloat16": "bf16"}

# Texts tokenised at a time: enough that sorting leaves hardly any padding, and a bound on the
# memory that token lists take.
_BLOCK = 16_384

# Tokens in a forward pass. A processor is fastest while activations stay in its caches; a GPU
# needs far more rows to be busy.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 65_536}


class SentenceEncoder:
    """A sentence-transformers model as a target of kind ``retriever``.

    It answers ``Embed``, and ``Gradient`` with directions as goals where its first module is a
    transformer with a fast tokenizer.

    The model's own tokenizer, transformer, pooling and further modules are used as they are.
    Only the batches are ours: equal texts are encoded once, texts are tokenised once, sorted by
    tokens and packed by token budget, so that hardly any padding is computed.
    """

    def __init__(self, model: SentenceTransformer, spec: str, *, dtype: torch.dtype) -> None:
        self._model = model.eval().requires_grad_(False)
        # Loading casts the transformer alone; dense layers behind it have to follow. Buffers
        # stay as they are: rotary frequencies lose too much in bf16.
        for parameter in self._model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        width = self._model.get_embedding_dimension()
        if width is None:
            raise UserError(f"the model {spec} does not say how wide its embeddings are")
        self._spec = spec
        self._width = int(width)
        self._dtype = _DTYPE_NAMES[str(dtype)]
        self._settings = _settings(model)
        self._batch_tokens = _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS["cpu"])
        self._vocabulary: Vocabulary | None = None

    @classmethod
    def load(cls, spec: str, *, device: str = "auto", dtype: str = "auto") -> SentenceEncoder:
        """Load ``builtin:retriever``, a sentence-transformers or transformers folder, or a hub id.

        A plain transformers encoder gets mean pooling. Weights are read from safetensors only
        and no code that comes with a model is run.
        """
        place = resolve_device(device)
        number_format = resolve_dtype(dtype, place)
        folder = _folder_of(spec)
        _check_folder(folder, spec)
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        try:
            with quiet_transformers():
                model = SentenceTransformer(
                    str(folder),
                    device=str(place),
                    trust_remote_code=False,
                    local_files_only=True,
                    model_kwargs={"dtype": number_format, "use_safetensors": True},
                )
        except (
            ImportError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError,
        ) as error:  # fmt: skip
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{spec} cannot be loaded as a sentence encoder: {reason}") from error
        return cls(model, spec, dtype=number_format)

    @property
    def spec(self) -> str:
        """The text that named the model."""
        return self._spec

    @property
    def kind(self) -> str:
        """Always ``retriever``."""
        return "retriever"

    @property
    def answers(self) -> frozenset[type[Request]]:
        """``Embed``, and ``Gradient`` where it can."""
        tokenizer = getattr(self._model[0], "tokenizer", None)
        differentiable = self._model.transformers_model is not None and getattr(
            tokenizer, "is_fast", False
        )
        return frozenset({Embed, Gradient}) if differentiable else frozenset({Embed})

    @property
    def label_names(self) -> tuple[str, ...]:
        """Empty: an encoder has no classes."""
        return ()

    @property
    def module(self) -> SentenceTransformer:
        """The model; training takes it apart."""
        return self._model

    @property
    def width(self) -> int:
        """The length of an embedding."""
        return self._width

    @property
    def dtype(self) -> str:
        """``fp32`` or ``bf16``: the number format of the weights."""
        return self._dtype

    @property
    def settings(self) -> str:
        """Hash of what decides an embedding beside the weights.

        These are the modules with their configurations (pooling among them), the vocabulary, the
        longest input, the prompts and the truncation of embeddings.
        """
        return self._settings

    def fingerprint(self) -> str:
        """SHA-256 over the names, shapes and bytes of the weights as they are now."""
        return fingerprint(self._model)

    def describe(self) -> Mapping[str, Any]:
        """Spec, kind, architecture, device, dtype, parameters, width and longest input."""
        inner = self._model.transformers_model
        return {
            **describe_module(self._spec, self.kind, self._model),
            "architecture": type(self._model if inner is None else inner).__name__,
            "width": self._width,
            "max_tokens": self._model.max_seq_length,
        }

    def answer(self, request: Request) -> Response:
        """Embed texts, with the model's default prompt if it has one, or differentiate.

        The texts of a ``Gradient`` are read as passages are, cut where the model cuts them.
        """
        if type(request) in self.answers:
            if isinstance(request, Embed):
                role: Role | None = "query" if request.questions else None
                return Embeddings(self.encode(request.texts, role=role))
            if isinstance(request, Gradient):
                return self._gradient(request)
        raise TypeError(f"{self._spec} ({self.kind}) does not answer {type(request).__name__}")

    def vocabulary(self) -> Vocabulary:
        """Tokens and embeddings as they are; made once and kept."""
        if self._vocabulary is None:
            model: Any = self._model.transformers_model
            self._vocabulary = read_vocabulary(self._model.tokenizer, model.get_input_embeddings())
        return self._vocabulary

    def encode(
        self,
        texts: Sequence[str],
        *,
        role: Role | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings of unit length, float32, shape (texts, width), in the order of the texts.

        Texts longer than the model takes are cut at its limit. ``role`` chooses the prompt, and
        the route through a model that has one for each, as ``encode_query`` and
        ``encode_document`` of sentence-transformers do. The same text has the same vector
        throughout one call.
        """
        unique = list(dict.fromkeys(texts))
        vectors = np.empty((len(unique), self._width), dtype=np.float32)
        for start in range(0, len(unique), _BLOCK):
            block = unique[start : start + _BLOCK]
            report = None
            if progress is not None:
                report = _shifted(progress, start, len(unique))
            vectors[start : start + len(block)] = self._encode_block(block, role, report)
        if len(unique) == len(texts):
            return vectors
        place = {text: number for number, text in enumerate(unique)}
        return vectors[[place[text] for text in texts]]

    def _encode_block(
        self, texts: list[str], role: Role | None, report: Callable[[int], None] | None
    ) -> NDArray[np.float32]:
        import torch
        from torch.nn.functional import normalize

        task = {} if role is None else {"task": role}
        lengths, collate = self._tokenise(texts, role)
        order: list[int] = []
        parts: list[torch.Tensor] = []
        with torch.inference_mode():
            for rows in pack(lengths, self._batch_tokens):
                output = self._model(collate(rows), **task)["sentence_embedding"]
                if self._model.truncate_dim is not None:
                    output = output[:, : self._model.truncate_dim]
                parts.append(normalize(output.float(), dim=1))
                order.extend(rows)
                if report is not None:
                    report(len(order))
            # One copy at the end: a copy after every batch would make a GPU wait for Python.
            stacked: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        vectors = np.empty_like(stacked)
        vectors[order] = stacked
        return vectors

    def _gradient(self, request: Gradient) -> Gradients:
        import torch
        from torch.nn.functional import normalize

        if request.shifts:
            raise ValueError("a sentence encoder's gradient takes no shifts")
        texts = [text for text in request.texts if isinstance(text, str)]
        goals = [goal.vector for goal in request.goals if isinstance(goal, Direction)]
        if not len(texts) == len(goals) == len(request.texts) == len(request.goals):
            raise ValueError("a sentence encoder's gradient takes single texts and directions")
        prompt = self._prompt("document") or ""
        read: Any = self._model.tokenizer(
            [prompt + text for text in texts],
            truncation=True,
            max_length=self._model.max_seq_length,
            return_offsets_mapping=True,
        )
        lengths, collate = self._tokenise(texts, "document")
        layer = cast("Any", self._model.transformers_model).get_input_embeddings()
        items: dict[int, TokenGradient] = {}
        for rows in pack(lengths, self._batch_tokens):
            wanted = torch.from_numpy(np.stack([goals[i] for i in rows])).to(self._model.device)
            with torch.enable_grad(), EmbeddingTap(layer) as tap:
                output = self._model(collate(rows), task="document")["sentence_embedding"]
                if self._model.truncate_dim is not None:
                    output = output[:, : self._model.truncate_dim]
                losses = -(normalize(output.float(), dim=1) * wanted).sum(1)
                # Rows do not touch each other, so the sum's gradient is each row's own.
                losses.sum().backward()  # type: ignore[no-untyped-call]
            gradients = tap.gradients([lengths[i] for i in rows])
            for i, loss, gradient in zip(rows, losses.tolist(), gradients, strict=True):
                items[i] = TokenGradient(
                    loss=loss,
                    token_ids=np.array(read["input_ids"][i], dtype=np.int64),
                    offsets=tuple(
                        (max(0, start - len(prompt)), max(0, end - len(prompt)))
                        for start, end in read["offset_mapping"][i]
                    ),
                    gradient=gradient,
                )
        return Gradients(tuple(items[i] for i in range(len(texts))))

    def _tokenise(
        self, texts: list[str], role: Role | None
    ) -> tuple[list[int], Callable[[list[int]], dict[str, Any]]]:
        """Token counts of the texts, and a function that makes a batch of some of them."""
        from sentence_transformers.sentence_transformer.modules import Transformer

        prompt = self._prompt(role)
        task = {} if role is None else {"task": role}
        device = self._model.device
        first = self._model[0]
        if (
            isinstance(first, Transformer)
            and first.modalities == ["text"]
            and not first.can_flatten_inputs
            and first.tokenizer is not None
        ):
            unpadded = {"text": {"padding": False}, "common": {"return_tensors": None}}
            whole = first.preprocess(texts, prompt=prompt, processing_kwargs=unpadded, **task)
            ids = whole["input_ids"]
            left = first.tokenizer.padding_side == "left"
            pad_id = first.tokenizer.pad_token_id or 0
            types = whole.get("token_type_ids")
            fixed = {key: whole[key] for key in ("modality", "prompt_length") if key in whole}

            def padded(rows: list[int]) -> dict[str, Any]:
                tokens, mask = pad_batch([ids[i] for i in rows], pad_id, device, left=left)
                batch = {"input_ids": tokens, "attention_mask": mask, **fixed}
                if types is not None:
                    batch["token_type_ids"] = pad_batch(
                        [types[i] for i in rows], 0, device, left=left
                    )[0]
                return batch

            return [len(row) for row in ids], padded

        # Static embeddings, routers, chat-style encoders: the module makes its own batches, and
        # characters stand in for tokens.
        def preprocessed(rows: list[int]) -> dict[str, Any]:
            batch = self._model.preprocess([texts[i] for i in rows], prompt=prompt, **task)
            return {
                key: value.to(device) if hasattr(value, "to") else value
                for key, value in batch.items()
            }

        return [len(text) // _CHARACTERS_PER_TOKEN + 1 for text in texts], preprocessed

    def _prompt(self, role: Role | None) -> str | None:
        names = _PROMPT_NAMES[role]
        prompts = self._model.prompts
        name = next((name for name in names if name in prompts), self._model.default_prompt_name)
        return None if name is None else prompts[name]


_CHARACTERS_PER_TOKEN = 4

# The names that sentence-transformers looks up for each role, in its order.
_PROMPT_NAMES: Mapping[Role | None, tuple[str, ...]] = {
    None: (),
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


def _shifted(progress: Progress, start: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(start + done, total)


def _settings(model: SentenceTransformer) -> str:
    modules: list[Any] = [
        [type(module).__name__, getattr(module, "get_config_dict", dict)()] for module in model
    ]
    tokenizer: Any = getattr(model[0], "tokenizer", None)
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    parts = [modules, vocabulary, model.max_seq_length, model.prompts, model.truncate_dim]
    return content_hash(json.dumps(part, sort_keys=True, default=str) for part in parts)


def _folder_of(spec: str) -> Path:
    """The local folder of a model; one on the hub is fetched, without pickles and code."""
    if spec == BUILTIN:
        return minilm_folder()
    if spec.startswith("builtin:"):
        raise UserError(f"{spec} is no sentence encoder; the built-in one is {BUILTIN}")
    folder = Path(spec)
    if spec and folder.is_dir():
        return folder
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", spec):
        raise UserError(f"no sentence encoder at {spec!r}: it is no folder here and no hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # Models of sentence-transformers itself are called by their bare name.
    repository = spec if "/" in spec else f"sentence-transformers/{spec}"
    try:
        return Path(
            snapshot_download(
                repository, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"]
            )
        )
    except (LocalEntryNotFoundError, ConnectionError):
        raise UserError(
            f"no sentence encoder {spec!r}: it is no folder here, it is not in the local cache, "
            "and the Hugging Face hub cannot be reached"
        ) from None
    except HfHubHTTPError:
        raise UserError(
            f"no sentence encoder {spec!r}: it is no folder here, and the Hugging Face hub has "
            "no such model or asks for a login"
        ) from None


def _check_folder(folder: Path, spec: str) -> None:
    """Refuse a folder without a model, with pickled weights only, or with code of its own."""
    modules_file = folder / "modules.json"
    if not modules_file.is_file() and not (folder / "config.json").is_file():
        raise UserError(f"{spec} is no model folder: it has neither modules.json nor config.json")
    places = [folder]
    if modules_file.is_file():
        try:
            modules = json.loads(modules_file.read_text(encoding="utf-8"))
            places += [folder / module["path"] for module in modules if module["path"]]
            types = [str(module["type"]) for module in modules]
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{modules_file} is not a list of modules") from None
        foreign = [name for name in types if not name.startswith("sentence_transformers.")]
        if foreign:
            raise UserError(
                f"{spec} needs code of its own ({foreign[0]}), and robustlab runs none that comes "
                "with a model"
            )
    weights = False
    for place in places:
        names = [file.name for file in place.iterdir()] if place.is_dir() else []
        safe = any(name.endswith(".safetensors") for name in names)
        pickled = [name for name in names if name.endswith(PICKLES)]
        if pickled and not safe:
            raise UserError(
                f"{spec} has its weights as a pickle ({place / pickled[0]}), which could run "
                "code; convert them to safetensors"
            )
        weights = weights or safe
    if not weights:
        raise UserError(f"{spec} is a model folder without weights (model.safetensors)")
