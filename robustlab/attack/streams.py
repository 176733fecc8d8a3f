"""A random stream for every example, for our own code and for third-party code alike."""

from __future__ import annotations

import hashlib
import random
from types import TracebackType
from typing import Any

import numpy as np

__all__ = ["RandomStream"]


class RandomStream:
    """The randomness of one example, decided by the run's seed and the example's id.

    ``generator`` is for code that takes one. Code that draws from the global generators of
    ``random``, NumPy and PyTorch (its CPU's) is run in a ``with`` block, which lends it these
    generators in the example's own state and leaves them afterwards as they were. A stream may be
    entered again and goes on where it left off, whatever ran in between.
    """

    def __init__(self, seed: int, example_id: str) -> None:
        import torch

        digest = hashlib.sha256(f"{seed}:{example_id}".encode()).digest()
        words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]
        self.generator = np.random.default_rng(words)
        self._own: tuple[Any, Any, Any] = (
            random.Random(digest).getstate(),
            np.random.RandomState(words).get_state(),
            torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")).get_state(),
        )
        self._outer: tuple[Any, Any, Any] | None = None

    def __enter__(self) -> RandomStream:
        """Put the global generators into this stream's state."""
        if self._outer is not None:
            raise RuntimeError("this random stream is in use already")
        self._outer = _states()
        _restore(self._own)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Note how far the stream got, and give the global generators their state back."""
        assert self._outer is not None
        self._own = _states()
        _restore(self._outer)
        self._outer = None


def _states() -> tuple[Any, Any, Any]:
    import torch

    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _restore(states: tuple[Any, Any, Any]) -> None:
    import torch

    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
