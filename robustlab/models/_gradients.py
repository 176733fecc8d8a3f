"""Gradients at input token embeddings, at the tokens as they are or shifted away from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustlab.models.device import upload
from robustlab.models.target import FloatArray, Gradient

if TYPE_CHECKING:
    import torch

__all__ = ["EmbeddingTap", "InputGradient", "checked_shifts", "output_gradients"]


class InputGradient(NamedTuple):
    """Loss of one item, and its gradient at the prompt's embeddings, float32 (T, width)."""

    loss: float
    gradient: NDArray[np.float32]


class EmbeddingTap:
    """Makes the first output of an embedding layer a leaf that collects a gradient.

    Used as a context manager around one forward pass. Unlike ``inputs_embeds`` it lets the
    model see its token ids, from which some derive positions (RoBERTa) or the place of the
    last token (decoder-only classifiers). Encoder-decoder models whose two halves share one
    layer call the encoder first; the decoder's call passes through untouched.

    Args:
        layer: the token embedding layer that reads the input.
        shifts: nothing, or for each row of the batch an array (tokens, width) that is added to
            the embeddings of its first tokens.
    """

    def __init__(self, layer: torch.nn.Module, shifts: Sequence[FloatArray] = ()) -> None:
        self._layer = layer
        self._shifts = shifts
        self._leaf: torch.Tensor | None = None

    def __enter__(self) -> EmbeddingTap:
        """Hook the layer."""
        self._handle = self._layer.register_forward_hook(self._replace)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the hook away again."""
        self._handle.remove()

    def _replace(
        self, module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor
    ) -> torch.Tensor:
        if self._leaf is not None:
            return output
        leaf = output.detach()
        if self._shifts:
            leaf = leaf + self._padded(leaf)
        self._leaf = leaf.requires_grad_(True)
        return self._leaf

    def _padded(self, embeddings: torch.Tensor) -> torch.Tensor:
        """The shifts of all rows, zero behind each row's own tokens."""
        moved = np.zeros(embeddings.shape, dtype=np.float32)
        for row, shift in enumerate(self._shifts):
            moved[row, : len(shift)] = shift
        return upload(moved, embeddings.device).to(embeddings.dtype)

    def gradients(self, lengths: Sequence[int]) -> list[FloatArray]:
        """After ``backward``: for each row float32 (tokens, width), the first ``lengths[row]``."""
        if self._leaf is None or self._leaf.grad is None:
            raise RuntimeError("the loss does not depend on the tapped embedding layer")
        found: FloatArray = self._leaf.grad.float().cpu().numpy()
        return [found[row, :length].copy() for row, length in enumerate(lengths)]


def checked_shifts(
    request: Gradient, lengths: Sequence[int], layer: torch.nn.Embedding
) -> tuple[FloatArray, ...]:
    """The shifts of a request, or none.

    Args:
        request: what was asked.
        lengths: how many tokens each of its texts has.
        layer: the token embedding layer, which has the width.

    Raises:
        ValueError: shifts that do not fit the texts.
    """
    if not request.shifts:
        return ()
    if len(request.shifts) != len(lengths):
        raise ValueError(f"{len(lengths)} texts have {len(request.shifts)} shifts")
    _, width = layer.weight.shape
    for number, (shift, length) in enumerate(zip(request.shifts, lengths, strict=True), 1):
        if shift.shape != (length, width):
            raise ValueError(
                f"shift {number} has shape {shift.shape}, but its text has {length} tokens "
                f"of width {width}"
            )
    return request.shifts


def output_gradients(
    layer: torch.nn.Module,
    log_probs: Callable[[], torch.Tensor],
    prompt_ids: Sequence[list[int]],
    output_ids: Sequence[list[int]],
    shifts: Sequence[FloatArray],
) -> list[InputGradient]:
    """Loss and gradient of each row of a generator's batch.

    Args:
        layer: the token embedding layer that reads the prompts.
        log_probs: the forward pass: summed log-probabilities of outputs and end tokens, (batch,).
        prompt_ids: the prompts' tokens.
        output_ids: the outputs' tokens without their end.
        shifts: nothing, or for each prompt what is added to its embeddings.
    """
    import torch

    with torch.enable_grad(), EmbeddingTap(layer, shifts) as tap:
        sums = log_probs()
        counts = torch.tensor([len(row) + 1 for row in output_ids], device=sums.device)
        losses = -sums / counts
        # Rows do not touch each other, so the sum's gradient is each row's own.
        losses.sum().backward()  # type: ignore[no-untyped-call]
    gradients = tap.gradients([len(row) for row in prompt_ids])
    return [InputGradient(*pair) for pair in zip(losses.tolist(), gradients, strict=True)]
