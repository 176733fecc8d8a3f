"""The built-in models: MiniLM's weights plus our own small parameter files.

Each parameter file under ``weights/`` is fp16 safetensors with a ``.json`` card beside it that
states training data, seed, time and measured quality. Low-rank adapters are stored as their two
factors and merged here, so that loading needs no other library; whatever else was trained is
stored as it is. ``scripts/train_builtin.py`` makes the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlab.errors import UserError
from robustlab.resources import minilm_folder, weights_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from robustlab.models.reader import ReaderConfig
    from robustlab.models.target import Target

__all__ = ["BUILTIN_NAMES", "load_builtin", "load_reader_folder", "merge_parameters"]

BUILTIN_NAMES = ("classifier", "seq2seq", "causal", "retriever")


def load_builtin(name: str, device: torch.device, dtype: torch.dtype, batch_tokens: int) -> Target:
    """Assemble a built-in model; ``retriever`` is loaded by the retrieval room.

    Raises:
        UserError: an unknown name, or a parameter file that this installation lacks.
    """
    if name == "retriever":
        raise UserError(
            "builtin:retriever embeds sentences and neither classifies nor generates: name it "
            "with --retriever, or evaluate it with --kind retriever."
        )
    if name not in BUILTIN_NAMES:
        raise UserError(
            f"There is no built-in model {name!r}; there are: "
            + ", ".join(f"builtin:{known}" for known in BUILTIN_NAMES)
            + "."
        )
    parameters, card = _read_parameters(name)
    if name == "classifier":
        return _classifier(parameters, card, device, dtype, batch_tokens)
    return _reader(name, parameters, card, device, dtype, batch_tokens)


def load_reader_folder(
    folder: Path, device: torch.device, dtype: torch.dtype, batch_tokens: int
) -> Target:
    """Load a reader that was saved whole: ``config.json``, ``model.safetensors``, tokenizer."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    from robustlab.models.reader import new_reader, read_config

    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"'{folder}' has a reader's config.json but no model.safetensors.")
    reader = new_reader(read_config(folder / "config.json"))
    reader.load_state_dict(load_file(weights))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return _reader_target(str(folder), reader, tokenizer, device, dtype, batch_tokens)


def merge_parameters(module: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Put trained parameters into a module: adapters are added, the rest replaces.

    ``NAME.lora_A`` (rank, in) and ``NAME.lora_B`` (out, rank) add B @ A to ``NAME.weight``
    (LoRA, Hu et al. 2021, arXiv:2106.09685; the scale is already in the factors).

    Raises:
        UserError: a name or a shape that does not fit the module.
    """
    import torch

    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            if name.endswith(".lora_B"):
                continue
            stem = name.removesuffix(".lora_A")
            place = own.get(f"{stem}.weight" if stem != name else name)
            update = value.float()
            if stem != name:
                update = parameters[f"{stem}.lora_B"].float() @ update
            if place is None or place.shape != update.shape:
                raise UserError(
                    f"The parameter file does not fit the model at {name!r}: it belongs to "
                    "another version of robustlab; install the package again."
                )
            if stem != name:
                place.add_(update)
            else:
                place.copy_(update)


def _read_parameters(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A shipped parameter file and its card."""
    from safetensors.torch import load_file

    path = weights_folder() / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(
            f"builtin:{name} needs {path}, which is missing: install robustlab again, or make it "
            "with scripts/train_builtin.py."
        )
    return load_file(path), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def _reader(
    name: str,
    parameters: Mapping[str, Tensor],
    card: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
) -> Target:
    """A reader on MiniLM's weights."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    from robustlab.models.reader import config_from, from_minilm

    folder = minilm_folder()
    config: ReaderConfig = config_from(card["config"])
    reader = from_minilm(config, load_file(folder / "model.safetensors"), seed=0)
    merge_parameters(reader, parameters)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return _reader_target(f"builtin:{name}", reader, tokenizer, device, dtype, batch_tokens)


def _reader_target(
    spec: str,
    reader: Any,
    tokenizer: Any,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
) -> Target:
    from robustlab.models.reader_backend import (
        CausalReaderTarget,
        ReaderBackend,
        Seq2SeqReaderTarget,
    )

    backend = ReaderBackend(reader.to(dtype), tokenizer, device)
    seq2seq = reader.config.model_type == "robustlab-seq2seq"
    target = Seq2SeqReaderTarget if seq2seq else CausalReaderTarget
    return target(spec, backend, batch_tokens=batch_tokens)


def _classifier(
    parameters: Mapping[str, Tensor],
    card: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
) -> Target:
    """MiniLM with a classification head, as an ordinary BERT classifier."""
    from transformers import AutoTokenizer

    from robustlab.models.classifier import ClassifierTarget
    from robustlab.models.minilm import minilm_classifier

    folder = minilm_folder()
    model = minilm_classifier(folder, card["label_names"])
    merge_parameters(model, parameters)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return ClassifierTarget(
        "builtin:classifier",
        model.to(dtype),
        tokenizer,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
    )
