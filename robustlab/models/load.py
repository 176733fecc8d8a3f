"""From the text that names a model to a Target.

A spec is ``builtin:NAME``, a folder in Hugging Face's layout, or a hub id. Hub models are
downloaded once into Hugging Face's cache and then read as a folder, so that every check below
holds for both. Weights are read from safetensors only: a pickle can run code when it is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlab.errors import UserError
from robustlab.models.batching import default_batch_tokens
from robustlab.models.device import resolve_device, resolve_dtype
from robustlab.models.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch

    from robustlab.models.target import Target

__all__ = ["PICKLES", "load_target"]

_KINDS = ("classifier", "seq2seq", "causal")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of weight files that can run code when they are opened."""

# Pickles that a trainer leaves beside the weights; they are never opened.
_TRAINER_STATE = ("training_args", "optimizer", "scheduler", "rng_state")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.spm", "tekken.json")
_DOWNLOADS = ("*.json", "*.txt", "*.model", "*.spm", "model*.safetensors")


def load_target(
    spec: str,
    *,
    kind: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
) -> Target:
    """Load the model that ``spec`` names, ready to answer.

    Args:
        spec: ``builtin:NAME``, a folder with ``config.json``, safetensors and a tokenizer, or a
            Hugging Face hub id.
        kind: ``classifier``, ``seq2seq`` or ``causal``; found from the config when not given.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, ``fp32`` or ``bf16``; see
            :func:`~robustlab.models.device.resolve_dtype`.
        batch_tokens: the most tokens in a forward pass, padding included; see
            :func:`~robustlab.models.batching.default_batch_tokens`.

    Raises:
        UserError: anything about the spec, the files or the machine that stands in the way.
    """
    if kind is not None and kind not in _KINDS:
        raise UserError(f"Unknown kind '{kind}': use --kind {', '.join(_KINDS[:-1])} or causal.")
    where = resolve_device(device)
    precision = resolve_dtype(dtype, where)
    tokens = default_batch_tokens(where) if batch_tokens is None else batch_tokens
    target: Target
    if spec.startswith("builtin:"):
        from robustlab.models.builtin import load_builtin

        target = load_builtin(spec.removeprefix("builtin:"), where, precision, tokens)
    else:
        folder = _locate(spec)
        model_type = _read_config(spec, folder).get("model_type")
        if str(model_type).startswith("robustlab-"):
            from robustlab.models.builtin import load_reader_folder

            target = load_reader_folder(folder, where, precision, tokens)
        else:
            return _load_transformers(spec, folder, kind, where, precision, tokens)
    if kind not in (None, target.kind):
        raise UserError(f"'{spec}' is a {target.kind}, not a {kind}: leave --kind out.")
    return target


def _locate(spec: str) -> Path:
    """The folder of a model, downloaded if the spec is a hub id."""
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"'{spec}' is a file: give the model's folder, which holds config.json.")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", spec):
        raise UserError(
            f"There is no folder '{spec}': give a folder that holds a model, a Hugging Face hub id "
            "such as owner/name, or builtin:NAME."
        )
    return _download(spec)


def _download(hub_id: str) -> Path:
    """The snapshot of a hub model in the local cache."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        return Path(
            snapshot_download(hub_id, allow_patterns=list(_DOWNLOADS), ignore_patterns=["*/*"])
        )
    except RepositoryNotFoundError as error:
        raise UserError(
            f"'{hub_id}' is neither a folder here nor a model that you may read on the Hugging "
            "Face hub: check the name, and log in with `hf auth login` if it is private or gated."
        ) from error
    except HFValidationError as error:
        raise UserError(f"'{hub_id}' is neither a folder here nor a valid hub id.") from error
    except OSError as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise UserError(
            f"'{hub_id}' is neither a folder here nor in the Hugging Face cache, and {why}: run "
            f"`hf download {hub_id}` where there is a network, or give a folder."
        ) from error


def _read_config(spec: str, folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"'{spec}' has no config.json, so it is not a Hugging Face model folder.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The config.json of '{spec}' is not readable JSON: {error}.") from error
    if not isinstance(config, dict):
        raise UserError(f"The config.json of '{spec}' is not a JSON object.")
    return config


def _load_transformers(
    spec: str,
    folder: Path,
    kind: str | None,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
) -> Target:
    """Load a Hugging Face model folder."""
    from robustlab.models.adapted import attach
    from robustlab.models.causal import CausalTarget, TransformersCausal
    from robustlab.models.classifier import ClassifierTarget
    from robustlab.models.seq2seq import Seq2SeqTarget, TransformersSeq2Seq

    _check_files(spec, folder)
    with quiet_transformers():
        with _explained(spec, "config.json"):
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        family = kind or _family(spec, config)
        if config.model_type == "big_bird":
            # Block-sparse attention depends on the padding (the last block is global), and a
            # short text switches a model to full attention for good. Full attention, which the
            # sparse one approximates, gives a text one result whatever it is batched with.
            config.attention_type = "original_full"
        tokenizer = _load_tokenizer(spec, folder)
        model = attach(_load_model(spec, folder, config, family, dtype), folder)
        if family == "classifier":
            return ClassifierTarget(
                spec, model, tokenizer, device=device, dtype=dtype, batch_tokens=batch_tokens
            )
        if family == "seq2seq":
            encoder_decoder = TransformersSeq2Seq(model, tokenizer, device=device, dtype=dtype)
            return Seq2SeqTarget(spec, encoder_decoder, batch_tokens=batch_tokens)
        decoder = TransformersCausal(model, tokenizer, device=device, dtype=dtype)
        return CausalTarget(spec, decoder, batch_tokens=batch_tokens)


def _check_files(spec: str, folder: Path) -> None:
    """Refuse folders without safetensors or without a tokenizer before anything is loaded."""
    if not any((folder / name).is_file() for name in _WEIGHTS):
        pickles = sorted(
            path.name
            for path in folder.iterdir()
            if path.suffix in PICKLES and not path.name.startswith(_TRAINER_STATE)
        )
        if pickles:
            raise UserError(
                f"'{spec}' has its weights only as a pickle ({pickles[0]}), which can run code "
                "when opened: convert it to safetensors with save_pretrained."
            )
        raise UserError(f"'{spec}' has no weights: there is no {_WEIGHTS[0]} in it.")
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise UserError(
            f"'{spec}' has no tokenizer: save it there with tokenizer.save_pretrained "
            "(tokenizer.json)."
        )


def _family(spec: str, config: Any) -> str:
    """The kind of model that a config describes."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    names = tuple(config.architectures or ())
    if any(name.endswith("ForSequenceClassification") for name in names):
        return "classifier"
    if config.is_encoder_decoder or any(
        name.endswith("ForConditionalGeneration") for name in names
    ):
        return "seq2seq"
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return "causal"
    # Types that have a causal model but no masked one are decoder-only whatever was saved.
    if (
        config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    ):
        return "causal"
    saved = ", ".join(names) or f"model type {config.model_type}"
    raise UserError(
        f"It cannot be told from the config.json of '{spec}' ({saved}) whether this is a "
        "classifier, a seq2seq or a causal model: say so with --kind."
    )


def _load_tokenizer(spec: str, folder: Path) -> Any:
    """The folder's fast tokenizer."""
    with _explained(spec, "tokenizer"):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"'{spec}' has only a slow tokenizer, which cannot say where its tokens lie in the "
            "text: save a fast one there (tokenizer.json)."
        )
    return tokenizer


def _load_model(spec: str, folder: Path, config: Any, family: str, dtype: torch.dtype) -> Any:
    """The folder's model with the head that its family needs; all of it from the files."""
    import transformers

    classes = {
        "classifier": transformers.AutoModelForSequenceClassification,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
        "causal": transformers.AutoModelForCausalLM,
    }
    with _explained(spec, f"model as a {family}"):
        model, loaded = classes[family].from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise UserError(
            f"'{spec}' is no finished {family}: {len(missing)} of the weights that "
            f"{type(model).__name__} needs are not in its files (e.g. {missing[0]}); give a model "
            "that was trained for this, or another --kind."
        )
    return model


@contextmanager
def _explained(spec: str, part: str) -> Iterator[None]:
    """Turn whatever transformers says about a user's files into one sentence."""
    try:
        yield
    except Exception as error:  # tokenizers raises nothing more precise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"The {part} of '{spec}' cannot be loaded: {lines[0][:300]}") from error
