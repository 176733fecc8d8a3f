"""Targets: one door to every model, and the files that open it.

Import from the modules themselves (``robustlab.models.target``, ``robustlab.models.load``); this
package imports nothing, so that importing it costs nothing.
"""

from __future__ import annotations

__all__: list[str] = []
