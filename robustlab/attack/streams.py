"""A random stream for every example, for our own code and for third-party code alike."""

from __future__ import annotations

import hashlib
import random
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

__all__ = ["RandomStream"]


# Its functions for exchanging bit generators are public, but missing in NumPy's own types.
_numpy_random: Any = np.random


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
        bits: Any = np.random.MT19937()
        bits.state = np.random.RandomState(words).get_state(legacy=False)
        self._own = _States(
            random.Random(digest).getstate(),
            bits,
            None,
            torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")).get_state(),
        )
        self._outer: _States | None = None

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


class _States(NamedTuple):
    """Where the global generators are.

    NumPy's global generator is moved by exchanging the bit generator under it, because copying
    its state in and out takes a hundred microseconds. Only the second half of a pair of normal
    numbers, if one was left over, lies outside of the bit generator; ``numpy_left_over`` is the
    whole state then.
    """

    random: tuple[Any, ...]
    numpy_bits: Any
    numpy_left_over: dict[str, Any] | None
    torch: Any


def _states() -> _States:
    import torch

    numpy_state: Any = np.random.get_state(legacy=False)
    return _States(
        random.getstate(),
        _numpy_random.get_bit_generator(),
        numpy_state if numpy_state["has_gauss"] else None,
        torch.get_rng_state(),
    )


def _restore(states: _States) -> None:
    import torch

    random.setstate(states.random)
    _numpy_random.set_bit_generator(states.numpy_bits)
    if states.numpy_left_over is not None:
        np.random.set_state(states.numpy_left_over)
    torch.set_rng_state(states.torch)
