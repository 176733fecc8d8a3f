"""The manifest: what a run was made from, in enough detail to make it again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import robustlab
from robustlab.runs._json import Json, plain

__all__ = ["build_manifest"]

_PACKAGES = (
    "faiss-cpu",
    "faiss-gpu",
    "ir-measures",
    "numpy",
    "peft",
    "rouge-score",
    "sacrebleu",
    "sentence-transformers",
    "textattack",
    "tokenizers",
    "torch",
    "transformers",
)  # those whose version can change a number

_CPU_FLAGS = ("amx", "avx2", "avx512", "avx_vnni")
_THREAD_VARIABLES = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "RAYON_NUM_THREADS")


def build_manifest(
    *,
    command: str,
    arguments: Mapping[str, Any],
    seed: int,
    data: Mapping[str, Any],
    target: Mapping[str, Any],
    recipe: Mapping[str, Any] | None = None,
    threat_model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What was asked for, and the software and machine that it runs on.

    ``data`` and ``target`` describe themselves (specs, fingerprints); ``recipe`` carries the text
    of an attack's recipe and its hash. Added here: ``robustlab`` (version, and commit and
    ``dirty`` flag when it runs from a git checkout), ``versions`` of Python and of the libraries
    that can change a number, ``machine`` (platform, processor, threads), ``started`` (UTC) and
    ``command_line``.

    An argument whose name contains *token*, *key*, *secret* or *password* is left out, and masked
    in the command line. Numbers and switches stay, so that ``max_new_tokens`` is recorded.
    """
    return {
        "command": command,
        "command_line": _masked([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "arguments": _without_secrets(plain(arguments)),
        "seed": seed,
        "data": plain(data),
        "target": plain(target),
        "recipe": plain(recipe),
        "threat_model": plain(threat_model),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "robustlab": {"version": robustlab.__version__, **_checkout()},
        "versions": _versions(),
        "machine": _machine(),
    }


_SECRET = re.compile(r"token|key|secret|password", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_MASK = "***"


def _without_secrets(value: Json) -> Json:
    """Plain JSON values without the entries whose name and type make them a possible secret."""
    if isinstance(value, dict):
        return {
            name: _without_secrets(item)
            for name, item in value.items()
            if item is None or isinstance(item, bool | int | float) or not _SECRET.search(name)
        }
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


def _masked(words: Sequence[str]) -> list[str]:
    """The words of a command line with the values of options that may hold a secret masked."""
    shown: list[str] = []
    expects_secret = False
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            is_secret = bool(_SECRET.search(name))
            expects_secret = is_secret and not equals
            if is_secret and equals and not _NUMBER.fullmatch(value):
                word = f"{name}={_MASK}"
        else:
            if expects_secret and not _NUMBER.fullmatch(word):
                word = _MASK
            expects_secret = False
        shown.append(word)
    return shown


def _checkout() -> dict[str, Any]:
    """``commit`` and ``dirty`` of the checkout that this code runs from; empty for a wheel."""
    root = Path(robustlab.__file__).resolve().parent.parent
    top = _git(root, "rev-parse", "--show-toplevel")
    # site-packages may lie inside a repository of the user's own, which says nothing about us.
    if top is None or Path(top).resolve() != root:
        return {}
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", "robustlab", "attacks", "corpora")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints, or None if it fails or git is not there."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            check=True,
            encoding="utf-8",
            env=environment,
            timeout=10,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    """Python and the installed packages of :data:`_PACKAGES`, without importing any."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _machine() -> dict[str, Any]:
    model, flags = _processor()
    torch = sys.modules.get("torch")  # asked only if it is there already: importing it takes long
    return {
        "platform": platform.platform(),
        "architecture": platform.machine(),
        "cpu": model,
        "cpu_flags": flags,
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "torch_threads": torch.get_num_threads() if torch else None,
        "thread_variables": {
            name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ
        },
    }


def _processor() -> tuple[str, list[str]]:
    """Name of the processor, and which of its vector and matrix instructions it states."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor(), []
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", "").split()
    return (
        fields.get("model name", platform.processor()),
        sorted(flag for flag in flags if flag.startswith(_CPU_FLAGS)),
    )
