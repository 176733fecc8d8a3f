"""Inner maximisation: what one update of adversarial training does to a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from robustlab.errors import UserError

if TYPE_CHECKING:
    import torch

    from robustlab.training.tasks import Batch, Task

__all__ = ["Backward", "Maximisation", "Update", "check_options"]

Backward: TypeAlias = "Callable[[torch.Tensor], None]"
"""The trainer's: scales a loss to its share of the update and accumulates its gradients."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one micro-batch cost.

    ``loss``: detached scalar on the device, the mean over the items of what was minimised.
    ``forwards`` and ``backwards``: passes over the whole micro-batch.
    """

    loss: torch.Tensor
    forwards: int
    backwards: int


class Maximisation(Protocol):
    """A method of adversarial training at one strength."""

    @property
    def name(self) -> str:
        """The ``--method`` it is."""

    @property
    def strength(self) -> float:
        """Radius, rate or weight, as the method defines."""

    def begin_epoch(self, task: Task, *, seed: int, epoch: int) -> None:
        """Before the first batch of an epoch, e.g. to attack training examples with
        ``task.target()``. Must not change the module or its mode."""

    def update(self, task: Task, batch: Batch, backward: Backward, *, seed: int) -> Update:
        """Hand the gradients of one micro-batch to ``backward``, once or several times.

        The module comes in train mode and is left in it; passes that search for a perturbation
        run in eval mode. All randomness comes from ``seed``, which differs between micro-batches.
        The losses handed to ``backward`` are means over the items; their sum is what is
        minimised. Nothing here waits for the device (no ``item()``).
        """

    def state(self) -> Mapping[str, Any]:
        """What a resumed run needs, as JSON; empty for methods without memory."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` gave."""


def check_options(name: str, options: Mapping[str, Any], has: Set[str]) -> None:
    """Refuse what a method has no option for.

    Raises:
        UserError: an option is not among those that the method has.
    """
    unknown = sorted(set(options) - has)
    if unknown:
        known = ", ".join(sorted(has)) or "none"
        raise UserError(f"the method {name} has no option {unknown[0]!r}; it has: {known}")
