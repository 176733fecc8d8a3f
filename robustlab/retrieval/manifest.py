"""What a saved index says about itself, and whether it fits."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robustlab import __version__
from robustlab.data.records import Corpus
from robustlab.errors import UserError
from robustlab.retrieval.encoder import SentenceEncoder
from robustlab.retrieval.kinds import INDEX_KINDS, IndexKind

__all__ = ["CorpusStamp", "EncoderStamp", "Manifest"]

_FILE = "manifest.json"
_FORMAT = 1
_LIBRARIES = ("faiss-cpu", "sentence-transformers", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class CorpusStamp:
    """Which corpus an index was built from."""

    name: str
    fingerprint: str
    passages: int


@dataclass(frozen=True, slots=True)
class EncoderStamp:
    """Which encoder made the vectors: its weights, its settings and its number format."""

    spec: str
    fingerprint: str
    settings: str
    dtype: str
    width: int

    @classmethod
    def of(cls, encoder: SentenceEncoder) -> EncoderStamp:
        """The stamp of an encoder as it is now."""
        return cls(
            encoder.spec, encoder.fingerprint(), encoder.settings, encoder.dtype, encoder.width
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of an index folder's ``manifest.json``."""

    kind: IndexKind
    corpus: CorpusStamp
    encoder: EncoderStamp

    def write(self, folder: Path) -> None:
        """Write it, with library versions and the sizes of the files that are there already."""
        record = {
            "format": _FORMAT,
            **asdict(self),
            "versions": {
                "robustlab": __version__,
                **{name: importlib.metadata.version(name) for name in _LIBRARIES},
            },
            "bytes": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (folder / _FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read it; :class:`UserError` if the folder holds no whole index of this format."""
        file = folder / _FILE
        if not file.is_file():
            raise UserError(f"{folder} holds no index (no {_FILE}); make one with robustlab index")
        damaged = f"the index {folder} is damaged; build it again"
        try:
            record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if record["format"] != _FORMAT:
                raise UserError(
                    f"the index {folder} has the format {record['format']}, and this robustlab "
                    f"reads {_FORMAT}; build it again"
                )
            manifest = cls(
                record["kind"], CorpusStamp(**record["corpus"]), EncoderStamp(**record["encoder"])
            )
            sizes = record["bytes"].items()
            whole = all((folder / name).stat().st_size == size for name, size in sizes)
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise UserError(damaged) from error
        if not whole or manifest.kind not in INDEX_KINDS:
            raise UserError(damaged)
        return manifest

    def check(self, folder: Path, encoder: SentenceEncoder, corpus: Corpus | None) -> None:
        """Raise :class:`UserError` unless the index fits the encoder and, if given, the corpus."""
        here = EncoderStamp.of(encoder)
        if self.encoder.dtype != here.dtype and self.encoder.spec == here.spec:
            raise UserError(
                f"the index {folder} was built in {self.encoder.dtype} and the encoder runs in "
                f"{here.dtype}; pass --dtype {self.encoder.dtype} or build the index again"
            )
        # The spec is only a name: the same model may be called by its folder or its hub id.
        if (self.encoder.fingerprint, self.encoder.settings, self.encoder.dtype) != (
            here.fingerprint, here.settings, here.dtype,
        ):  # fmt: skip
            raise UserError(
                f"the index {folder} was built by another encoder ({self.encoder.spec}) than "
                f"{here.spec}; use that one or build the index again"
            )
        if corpus is not None and corpus.fingerprint() != self.corpus.fingerprint:
            raise UserError(
                f"the index {folder} was built from another corpus ({self.corpus.name}, "
                f"{self.corpus.passages} passages) or from another state of {corpus.name}; "
                "build it again"
            )
