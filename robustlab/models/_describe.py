"""What a manifest says about a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["describe_module"]


def describe_module(spec: str, kind: str, module: torch.nn.Module) -> dict[str, Any]:
    """Spec, kind, architecture (the class's name), device, dtype and number of parameters.

    The dtype is the one most parameters have: mixture-of-experts models keep their routers in
    fp32 when all else is bf16.
    """
    counts: dict[str, int] = {}
    devices: dict[str, None] = {}
    for parameter in module.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + parameter.numel()
        devices[str(parameter.device)] = None
    dtype = max(counts, key=lambda name: counts[name])
    return {
        "spec": spec,
        "kind": kind,
        "architecture": type(module).__name__,
        "device": ", ".join(devices),
        "dtype": {"float32": "fp32", "bfloat16": "bf16"}.get(dtype, dtype),
        "parameters": sum(counts.values()),
    }
