"""Adapters that cannot be merged into a model's weights, and how a folder holds them.

A folder in Hugging Face's layout may have a folder ``adapter/`` in it: virtual tokens in peft's
own format (``adapter_config.json``), or bottlenecks (``bottleneck.json``). They are put on the
model when the folder is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustlab.errors import UserError

__all__ = ["ADAPTER_FOLDER", "Bottleneck", "attach", "insert_bottlenecks", "save_bottlenecks"]

ADAPTER_FOLDER = "adapter"

_WEIGHTS = "bottleneck.safetensors"
_CONFIG = "bottleneck.json"


class Bottleneck(nn.Module):
    """A linear layer followed by a small residual network: y + U gelu(D y).

    Houlsby et al. 2019, arXiv:1902.00751, in the place of Pfeiffer et al. 2021, arXiv:2005.00247
    (after the feed-forward block only). U begins at zero, so that nothing is changed at first.
    """

    def __init__(self, base: nn.Module, width: int, size: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """(…, width of the layer's input) -> (…, width)."""
        output: Tensor = self.base(states)
        moved: Tensor = self.up(nn.functional.gelu(self.down(output)))
        return output + moved


def insert_bottlenecks(module: nn.Module, places: Mapping[str, int], size: int) -> None:
    """Put a bottleneck after each layer named in ``places``, which gives its output width."""
    for name, width in places.items():
        parent = module.get_submodule(name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        base = module.get_submodule(name)
        added = Bottleneck(base, width, size)
        weight = next(base.parameters())
        setattr(parent, leaf, added.to(weight.device, weight.dtype))


def save_bottlenecks(module: nn.Module, folder: Path) -> None:
    """Write the bottlenecks of a module into ``folder``, which exists."""
    from safetensors.torch import save_file

    found = {name: part for name, part in module.named_modules() if isinstance(part, Bottleneck)}
    weights: dict[str, Tensor] = {}
    for name, part in found.items():
        for half in ("down", "up"):
            for key, value in part.get_submodule(half).state_dict().items():
                weights[f"{name}.{half}.{key}"] = value.detach().cpu().contiguous()
    save_file(weights, folder / _WEIGHTS)
    config = {
        "size": next(iter(found.values())).down.out_features,
        "places": {name: part.up.out_features for name, part in found.items()},
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def attach(model: Any, folder: Path) -> Any:
    """The model with what stands in the folder's ``adapter/``; as it is where there is none.

    Raises:
        UserError: an adapter that does not fit the model.
    """
    place = folder / ADAPTER_FOLDER
    try:
        if (place / _CONFIG).is_file():
            from safetensors.torch import load_file

            config = json.loads((place / _CONFIG).read_text(encoding="utf-8"))
            insert_bottlenecks(model, config["places"], config["size"])
            _, unexpected = model.load_state_dict(load_file(place / _WEIGHTS), strict=False)
            if unexpected:
                raise KeyError(unexpected[0])
        elif (place / "adapter_config.json").is_file():
            from peft import PeftModel

            return PeftModel.from_pretrained(model, str(place), local_files_only=True)
    except (AttributeError, KeyError, RuntimeError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"The adapter in '{place}' does not fit its model: {lines[0]}") from error
    return model
