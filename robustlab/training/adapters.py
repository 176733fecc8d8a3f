"""Which parameters are trained: all of them, or few by adapters.

``lora``, ``ia3``, ``prompt`` and ``prefix`` are peft's; ``bitfit`` trains the biases (Ben Zaken
et al. 2022, arXiv:2106.10199) and ``adapter`` bottlenecks (Houlsby et al. 2019, arXiv:1902.00751),
for which peft has nothing. Layers of a head are always trained whole.
"""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlab.errors import UserError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PEFT_KINDS", "adapt", "is_mergeable", "merged", "plain", "save_adapter"]

PEFT_KINDS = ("lora", "ia3", "prompt", "prefix", "bitfit", "adapter")

_RANK = 8
_VIRTUAL_TOKENS = 10
_BOTTLENECK = 48

# Names of the layers that IA3 scales, over BERT, RoBERTa, ALBERT, DeBERTa, T5, BART, Llama, Qwen
# and the built-in readers: keys and values, and what goes into the last layer of a feed-forward
# block, after which a bottleneck stands too.
_KEYS_VALUES = re.compile(r"(^|\.)(key|value|key_proj|value_proj|k_proj|v_proj|k|v)$")
_FEED_FORWARD = re.compile(
    r"(^|\.)((?<!attention\.)output\.dense|ffn_output|fc2|down_proj|wo|mlp\.c_proj"
    r"|(encoder|decoder)\.\d+\.down)$"
)


def adapt(module: nn.Module, kind: str | None, *, heads: Sequence[str], seed: int = 0) -> nn.Module:
    """Choose what is trained; ``requires_grad`` says it afterwards.

    Args:
        module: the model, which is changed. In fp32.
        kind: one of :data:`PEFT_KINDS`, or None to train everything.
        heads: beginnings of the names of parameters that are trained whole in any case.
        seed: of the adapters' first values.

    Returns:
        The same module, or for ``prompt`` and ``prefix`` peft's wrapper around it.

    Raises:
        UserError: no such kind, or one that does not fit the model.
    """
    import torch

    if kind is None:
        return module.requires_grad_(True)
    if kind not in PEFT_KINDS:
        raise UserError(f"there is no --peft {kind}; there are: {', '.join(PEFT_KINDS)}")
    if kind not in ("bitfit", "adapter") and importlib.util.find_spec("peft") is None:
        raise UserError(f"--peft {kind} needs the package peft: pip install 'robustlab[train]'")
    whole = tuple(heads)
    # An output layer that shares its weights with the embeddings gets no adapter: merged, it would
    # change them too.
    embeddings = {
        id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)
    }
    linear = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear)
        and not name.startswith(whole)
        and id(part.weight) not in embeddings
    }
    module.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = _adapted(module, kind, linear, whole)
    for name, parameter in module.named_parameters():
        own = name.removeprefix("base_model.")
        if ".original_module." in own:  # peft's untouched copy of a head that it trains
            continue
        if own.startswith(whole) or (kind == "bitfit" and own.endswith("bias")):
            parameter.requires_grad_(True)
    return module


def _adapted(
    module: nn.Module, kind: str, linear: dict[str, nn.Linear], heads: tuple[str, ...]
) -> nn.Module:
    keys_values = [name for name in linear if _KEYS_VALUES.search(name)]
    feed_forward = [name for name in linear if _FEED_FORWARD.search(name)]
    if kind in ("ia3", "adapter") and not feed_forward:
        raise UserError(
            f"--peft {kind} does not know the layers of a {type(module).__name__}; use lora"
        )
    if kind == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        # alpha twice the rank, as is usual
        lora = LoraConfig(
            r=_RANK, lora_alpha=2 * _RANK, lora_dropout=0.0, target_modules=list(linear)
        )
        inject_adapter_in_model(lora, module)
    elif kind == "ia3":
        from peft import IA3Config, inject_adapter_in_model

        inject_adapter_in_model(
            IA3Config(
                target_modules=[*keys_values, *feed_forward], feedforward_modules=feed_forward
            ),
            module,
        )
    elif kind == "adapter":
        from robustlab.models.adapted import Bottleneck, insert_bottlenecks

        places = {name: linear[name].out_features for name in feed_forward}
        insert_bottlenecks(module, places, _BOTTLENECK)
        for part in module.modules():
            if isinstance(part, Bottleneck):
                part.down.requires_grad_(True)
                part.up.requires_grad_(True)
    elif kind in ("prompt", "prefix"):
        return _with_virtual_tokens(module, kind)
    return module


def _with_virtual_tokens(module: nn.Module, kind: str) -> nn.Module:
    from peft import PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
    from transformers import PreTrainedModel

    if not isinstance(module, PreTrainedModel):
        raise UserError(f"--peft {kind} needs a Hugging Face model; use lora, bitfit or adapter")
    name = type(module).__name__
    if name.endswith("ForSequenceClassification"):
        task = TaskType.SEQ_CLS
    elif module.config.is_encoder_decoder:
        task = TaskType.SEQ_2_SEQ_LM
    else:
        task = TaskType.CAUSAL_LM
    make = PromptTuningConfig if kind == "prompt" else PrefixTuningConfig
    wrapped: nn.Module = get_peft_model(
        module, make(task_type=task, num_virtual_tokens=_VIRTUAL_TOKENS)
    )
    return wrapped


def is_mergeable(module: nn.Module) -> bool:
    """Whether :func:`merged` leaves no adapter, so that a plain folder can hold the model."""
    from robustlab.models.adapted import Bottleneck

    return not _has_virtual_tokens(module) and not any(
        isinstance(part, Bottleneck) for part in module.modules()
    )


def _has_virtual_tokens(module: nn.Module) -> bool:
    """Whether peft has wrapped the module; importing it takes seconds, so only if it has to."""
    if not _peft_is_there():
        return False
    from peft import PeftModel

    return isinstance(module, PeftModel)


def _peft_is_there() -> bool:
    """Whether peft was imported: where it was not, no module can hold an adapter of its."""
    return "peft" in sys.modules


def merged(module: nn.Module) -> Any:
    """A copy whose LoRA and IA3 layers are merged into their weights; other adapters stay."""
    whole = copy.deepcopy(module)
    if not _peft_is_there():
        return whole
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [name for name, part in whole.named_modules() if isinstance(part, BaseTunerLayer)]
    for name in layers:
        layer: Any = whole.get_submodule(name)
        layer.merge()
        parent = whole.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], layer.get_base_layer())
    return whole


def plain(module: nn.Module) -> Any:
    """A copy without any adapter: those of LoRA and IA3 merged, others left out."""
    from robustlab.models.adapted import Bottleneck

    whole: Any = merged(module)
    wrappers: dict[type, str] = {Bottleneck: "base"}
    if _has_virtual_tokens(whole):
        from peft.utils import ModulesToSaveWrapper

        wrappers[ModulesToSaveWrapper] = "original_module"
        whole = whole.get_base_model()
    for name, part in list(whole.named_modules()):
        if type(part) in wrappers:
            parent = whole.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], getattr(part, wrappers[type(part)]))
    return whole


def save_adapter(module: nn.Module, folder: Path) -> None:
    """Write the adapters that cannot be merged into ``folder/adapter``, for ``load_target``."""
    from robustlab.models.adapted import ADAPTER_FOLDER, save_bottlenecks

    place = folder / ADAPTER_FOLDER
    place.mkdir()
    if _has_virtual_tokens(module):
        wrapped: Any = module
        wrapped.save_pretrained(str(place), safe_serialization=True)
    else:
        save_bottlenecks(module, place)
