"""What is trained on what: a module, its examples and its loss, behind one protocol.

The outer loop (:mod:`robustlab.training.trainer`) and the inner maximisation
(:mod:`robustlab.training.inner`) know a model only as a :class:`Task`, so that each is written
once for classifiers, readers and retrievers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from robustlab.models.target import Target, TextInput

__all__ = ["Batch", "Task", "bucketed", "shifted"]

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """Some examples of a task, ready for a forward pass.

    ``rows`` are the numbers of the examples in the task, one for each item; ``inputs`` tensors on
    the task's device, the first dimension of each the items. Only the task that made a batch
    reads its inputs.
    """

    rows: tuple[int, ...]
    inputs: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        """How many items."""
        return len(self.rows)


@runtime_checkable
class Task(Protocol):
    """A module, the examples it is trained on, and how it is judged."""

    @property
    def kind(self) -> str:
        """``classifier``, ``seq2seq``, ``causal`` or ``retriever``."""

    @property
    def module(self) -> torch.nn.Module:
        """What is trained, on its device, adapters included; the mode is the trainer's business."""

    @property
    def device(self) -> torch.device:
        """Where the module and every batch are."""

    @property
    def ids(self) -> Sequence[str]:
        """The id of each training example; a row is an index into it."""

    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        """The parameters that an optimiser may change, by name, always in the same order."""

    def batches(self, seed: int, epoch: int) -> Sequence[Sequence[int]]:
        """Rows of every batch of an epoch, items of similar length together.

        A function of its arguments and the task alone. A batch is what one update is made from;
        the trainer may cut it into micro-batches. Use :func:`bucketed`.
        """

    def collate(self, rows: Sequence[int]) -> Batch:
        """Put examples on the device, padded to their own longest."""

    def texts(self, batch: Batch) -> Sequence[TextInput]:
        """What an adversary in token space may rewrite of each item: the text of a classifier,
        the question of a reader or a retriever."""

    def perturbed(self, batch: Batch, texts: Sequence[TextInput]) -> Batch:
        """The same items with what :meth:`texts` gives replaced; rows and goals stay."""

    def loss(
        self, batch: Batch, shifts: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward pass in the module's present mode, with gradients where they are enabled.

        Args:
            batch: B items of T tokens, padding included.
            shifts: float32 (B, T, width), added to the output of the input embedding layer for
                the tokens of :meth:`embeddings`; use :func:`shifted`.

        Returns:
            The mean loss over the items, a float32 scalar, and float32 logits (N, choices) over
            every decision that is trained: one a text for a classifier, one an answer token for
            a reader (padding left out), one a question over its candidates for a retriever.
            Consistency training compares these between passes of the same batch.
        """

    def embeddings(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Output of the input embedding layer, (B, T, width), detached, and a float32 mask
        (B, T) that is 1 at the tokens an adversary in embedding space may shift (no padding, no
        special tokens)."""

    def embedding_norm(self) -> float:
        """Mean length of the rows of the input embedding layer: what a radius of 1 means."""

    def target(self) -> Target:
        """A frozen copy of the module as it is now, adapters merged, in eval mode.

        For attacks and evaluation; the module in training is not touched.
        """

    def validate(self) -> Mapping[str, float]:
        """Measures on the validation split; the one early stopping goes by is called
        :attr:`measure`. Larger is better. The module's mode is the same after as before."""

    @property
    def measure(self) -> str:
        """Name of the measure in :meth:`validate` that early stopping goes by."""

    def save(self, folder: Path) -> None:
        """Write a folder that ``load_target`` (or ``SentenceEncoder.load``) takes, atomically.

        Adapters are merged where their kind can be; the module in training is not touched.
        """


@contextmanager
def shifted(layer: torch.nn.Module, shifts: torch.Tensor | None) -> Iterator[None]:
    """Add ``shifts`` to what an embedding layer gives at its first call inside the block.

    The gradient reaches both the shifts and the layer's weights. Unlike ``inputs_embeds`` this
    lets the model see its token ids, from which some derive positions or the last token. A second
    call, as by a decoder that shares the layer with its encoder, passes untouched.

    Args:
        layer: the token embedding layer that reads the input.
        shifts: (B, T, width), or None for no shift at all.
    """
    if shifts is None:
        yield
        return
    waiting = [shifts]

    def add(module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + waiting.pop().to(output.dtype) if waiting else output

    handle = layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def bucketed(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Rows in batches of ``batch_size`` of similar length, in an order drawn anew each epoch.

    The rows are shuffled, cut into blocks of 64 batches, sorted by length within a block and cut
    into batches, whose order is shuffled again: mates and order differ between epochs, and little
    is padded. The last batch may be smaller.
    """
    dice = random.Random(f"bucketed:{seed}:{epoch}")
    order = list(range(len(lengths)))
    dice.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), _BLOCK * batch_size):
        block = sorted(order[start : start + _BLOCK * batch_size], key=lambda row: lengths[row])
        batches += [block[i : i + batch_size] for i in range(0, len(block), batch_size)]
    dice.shuffle(batches)
    return batches
