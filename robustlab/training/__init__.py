"""Adversarial training: tasks, inner maximisation, the outer loop, and the curve they draw.

Import from the modules themselves; this package imports nothing, so that importing it costs
nothing.
"""

from __future__ import annotations

__all__: list[str] = []
