"""A run directory on disk: written so that a kill at any moment loses at most one outcome.

``manifest.json``, ``summary.json`` and ``report.html`` appear whole, by renaming. To
``outcomes.jsonl`` one line is appended at a time and forced to the disk; a line without its
line break is the trace of a kill, and is ignored when reading and cut off before writing.
"""

from __future__ import annotations

import json
import os
import secrets
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from robustlab.errors import UserError
from robustlab.runs._json import encode, encode_pretty

__all__ = ["RunDirectory", "default_run_folder"]

_MANIFEST = "manifest.json"
_OUTCOMES = "outcomes.jsonl"
_SUMMARY = "summary.json"


def default_run_folder(command: str) -> Path:
    """``runs/<command>-<UTC time>`` under the current folder; never one that exists."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = Path("runs") / f"{command}-{stamp}"
    number = 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{command}-{stamp}-{number}"
    return folder


class RunDirectory:
    """One run: its manifest, its outcomes so far and, when it is complete, its summary.

    Made with :meth:`create` or :meth:`open`. Anyone may read while a run is being written. One
    writer at a time holds the lock: :meth:`create` takes it, and after :meth:`open` the first
    write does, or :meth:`lock`. It ends with :meth:`close`, with the ``with`` block, or with the
    process, however that ends; so there is no stale lock to clear away.

    A folder that cannot be read or written raises :class:`UserError`.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Not for callers: nothing on disk is checked or made here."""
        self._path = path
        self._manifest = dict(manifest)
        self._file: int | None = None  # outcomes.jsonl, open and locked
        self._ids: set[str] = set()  # of the outcomes in it; filled under the lock
        self._release: weakref.finalize[..., RunDirectory] | None = None

    @classmethod
    def create(cls, path: Path, manifest: Mapping[str, Any]) -> Self:
        """Begin a run in a folder that holds none yet; the folder and its parents are made."""
        path = Path(path)
        _refuse_taken(path)
        content = encode_pretty(manifest)
        with _disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        run = cls(path, json.loads(content))
        run.lock()
        try:
            _refuse_taken(path)  # again, now that nobody else can begin one here
            _replace(path / _MANIFEST, content)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run in a folder, to read or to continue."""
        path = Path(path)
        file = path / _MANIFEST
        if not file.is_file():
            raise UserError(f"{path} holds no run: there is no {_MANIFEST} in it")
        return cls(path, _read_object(file))

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, as JSON values."""
        return self._manifest

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary as it is on disk now; None while there is none."""
        file = self._path / _SUMMARY
        return _read_object(file) if file.is_file() else None

    @property
    def is_complete(self) -> bool:
        """Whether the run has its summary, which is written last."""
        return (self._path / _SUMMARY).is_file()

    def outcomes(self) -> list[dict[str, Any]]:
        """The outcomes on disk, in the order of writing.

        A last line that a kill cut short is ignored. Any other line that is not an outcome
        raises :class:`UserError` with its number.
        """
        file = self._path / _OUTCOMES
        with _disk_errors(self._path):
            content = file.read_bytes() if file.exists() else b""
        # Split at line feeds alone: other line separators may stand inside a JSON string.
        lines = content.split(b"\n")[:-1]
        return [_parse_outcome(line, file, number) for number, line in enumerate(lines, start=1)]

    def finished_ids(self) -> frozenset[str]:
        """Ids of the examples that have an outcome, whatever its status."""
        return frozenset(outcome["id"] for outcome in self.outcomes())

    def lock(self) -> None:
        """Become the run's writer, or raise :class:`UserError` if another process is.

        Does nothing if this object is the writer already. To continue a run, call it before
        :meth:`finished_ids`, so that no other process can add to them.
        """
        self._locked()

    def _locked(self) -> int:
        """The descriptor of ``outcomes.jsonl``, open and locked."""
        if self._file is not None:
            return self._file
        file = self._path / _OUTCOMES
        with _disk_errors(self._path):
            descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            _lock_file(descriptor, self._path)
            ids = self.finished_ids()
            with _disk_errors(self._path):
                _cut_torn_line(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._ids = set(ids)
        self._file = descriptor
        self._release = weakref.finalize(self, os.close, descriptor)
        return descriptor

    def close(self) -> None:
        """Let go of the lock; nothing is left to be saved. May be called twice."""
        if self._release is not None:
            self._release()
        self._file = self._release = None

    def __enter__(self) -> Self:
        """The run itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the run, finished or not."""
        self.close()

    def append(self, outcome: Mapping[str, Any]) -> None:
        """Add one outcome; when this returns it is on the disk.

        It needs an ``id`` (a string) that no outcome of the run has yet. If the line cannot be
        written whole, nothing of it remains.
        """
        key = outcome.get("id")
        if not isinstance(key, str):
            raise ValueError(f"an outcome needs an id that is a string, not {key!r}")
        line = encode(outcome) + b"\n"
        descriptor = self._locked()
        if self.is_complete:
            raise UserError(f"{self._path} is complete and takes no more outcomes")
        if key in self._ids:
            raise UserError(
                f"{self._path} already has an outcome for {key!r}: ids must not repeat, and "
                "another process may have continued this run"
            )
        with _disk_errors(self._path):
            _append_whole(descriptor, line)
        self._ids.add(key)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, which makes the run complete."""
        content = encode_pretty(summary)
        self.lock()
        _replace(self._path / _SUMMARY, content)

    def update_manifest(self, **fields: object) -> None:
        """Set top-level fields of the manifest, e.g. what is known only at the end."""
        content = encode_pretty({**self._manifest, **fields})
        self.lock()
        _replace(self._path / _MANIFEST, content)
        self._manifest = json.loads(content)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text made from the run, such as ``report.html``; as :meth:`write_file`."""
        return self.write_file(name, text.encode("utf-8", "backslashreplace"))

    def write_file(self, name: str, content: bytes) -> Path:
        """Write a file made from the run, at once or not at all; returns its path.

        ``name`` may begin with one sub folder, as in ``figures/x.png``, which is made if need be.
        Needs no lock: whoever renders last wins, and the run's own files are refused.
        """
        parts = name.split("/")
        taken = name in (_MANIFEST, _OUTCOMES, _SUMMARY)
        if taken or len(parts) > 2 or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{name!r} is not the name of a file to write beside a run")
        file = self._path / name
        if file.parent != self._path:
            with _disk_errors(self._path):
                file.parent.mkdir(exist_ok=True)
        _replace(file, content)
        return file


def _refuse_taken(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, and a run needs a folder")
    held = (path / _OUTCOMES).is_file() and (path / _OUTCOMES).stat().st_size
    if held or (path / _MANIFEST).exists() or (path / _SUMMARY).exists():
        raise UserError(
            f"{path} already holds a run; name another folder with --out, or continue that run "
            f"with --resume {path}"
        )


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system refuses (rights, space) into a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot use the run in {path}: {error.strerror or error}") from error


def _replace(file: Path, content: bytes) -> None:
    """Give a file new content all at once: whoever looks sees the old or the new."""
    with _disk_errors(file.parent):
        draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        try:
            with draft.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(file)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    """Force names in a folder to the disk, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock_file(descriptor: int, path: Path) -> None:
    """Lock an open file for as long as it is open; the system frees a dead process's lock."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another process is writing to the run in {path}; wait for it to end, or stop it"
        ) from None
    except OSError as error:
        raise UserError(f"cannot lock the run in {path}: {error.strerror}") from error


def _cut_torn_line(descriptor: int) -> None:
    """Shorten the file to its last line break."""
    size = os.fstat(descriptor).st_size
    content = os.pread(descriptor, size, 0)
    whole = content.rfind(b"\n") + 1
    if whole < size:
        os.ftruncate(descriptor, whole)
        os.fsync(descriptor)


def _append_whole(descriptor: int, line: bytes) -> None:
    """Append and sync, or leave the file as it was."""
    size = os.fstat(descriptor).st_size
    try:
        written = 0
        while written < len(line):
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)
    except BaseException:  # an interrupt as well: half a line would spoil the next one
        os.ftruncate(descriptor, size)
        raise


def _read_object(file: Path) -> dict[str, Any]:
    with _disk_errors(file.parent):
        content = file.read_bytes()
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UserError(f"{file} is broken: it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{file} is broken: it is not a JSON object")
    return value


def _parse_outcome(line: bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise UserError(f"{file}, line {number}: this is not an outcome (a JSON object with an id)")
    return value
