"""What holds for the whole test session."""

from __future__ import annotations

import os
from pathlib import Path

_SHARED = Path(
    os.environ.get("ROBUSTLAB_SHARED_DATA")
    or Path(__file__).resolve().parents[2] / "shared" / "data"
)

# NLTK reads the variable when it is imported, and TextAttack binds the stopwords when it is.
if (_SHARED / "nltk_data").is_dir():
    os.environ.setdefault("NLTK_DATA", str(_SHARED / "nltk_data"))
