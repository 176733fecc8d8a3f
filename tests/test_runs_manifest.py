"""The manifest: what it records, and what it must never record."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import robustlab
from robustlab.runs import build_manifest


def manifest(**arguments: object) -> dict[str, Any]:
    """A manifest with these arguments and little else."""
    return build_manifest(
        command="attack",
        arguments=arguments,
        seed=7,
        data={"spec": "reviews"},
        target={"spec": "builtin:classifier"},
        recipe=None,
        threat_model=None,
    )


def test_what_it_says() -> None:
    said = manifest(limit=20, out=Path("runs/x"))
    assert said["command"] == "attack"
    assert said["seed"] == 7
    assert said["arguments"] == {"limit": 20, "out": "runs/x"}
    assert said["target"] == {"spec": "builtin:classifier"}
    assert said["recipe"] is None
    assert said["robustlab"]["version"] == robustlab.__version__
    assert said["versions"]["python"] == platform.python_version()
    assert said["versions"]["numpy"] == np.__version__
    assert said["machine"]["cpus"] == os.cpu_count()
    assert json.loads(json.dumps(said, allow_nan=False)) == said


def test_it_starts_now_in_utc() -> None:
    started = datetime.fromisoformat(manifest()["started"])
    assert started.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - started) < timedelta(minutes=1)


def test_values_become_plain_json() -> None:
    said = manifest(
        rate=np.float32(0.5), sizes=(1, np.int64(2)), odd=math.nan, names=frozenset("ba")
    )
    assert said["arguments"] == {"rate": 0.5, "sizes": [1, 2], "odd": None, "names": ["a", "b"]}
    with pytest.raises(TypeError, match="cannot hold a object"):
        manifest(thing=object())


def test_secrets_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    line = [
        "/usr/bin/robustlab",
        "attack",
        "--hub-token",
        "hush1",
        "--api-key=hush2",
        "--seed",
        "7",
    ]
    monkeypatch.setattr(sys, "argv", [*line, "--PASSWORD", "hush3", "--max-new-tokens", "32"])
    said = manifest(
        hub_token="hush4",
        API_KEY="hush5",
        endpoint={"client_secret": "hush6", "url": "http://localhost"},
        endpoints=[{"password": "hush7"}],
        max_new_tokens=32,
        token=None,
    )
    assert "hush" not in json.dumps(said)
    assert said["arguments"] == {
        "endpoint": {"url": "http://localhost"},
        "endpoints": [{}],
        "max_new_tokens": 32,
        "token": None,
    }
    assert said["command_line"] == [
        *("robustlab", "attack", "--hub-token", "***", "--api-key=***", "--seed", "7"),
        *("--PASSWORD", "***", "--max-new-tokens", "32"),
    ]


def test_a_secret_switch_does_not_swallow_the_next_option(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["robustlab", "--ask-password", "--json", "fieldguide"]
    monkeypatch.setattr(sys, "argv", line)
    assert manifest()["command_line"] == line


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, check=True, text=True
    )
    return done.stdout.strip()


def pretend_checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the package in it, as if robustlab ran from there."""
    module = folder / "robustlab" / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(robustlab, "__file__", str(module))
    return module


@needs_git
def test_a_checkout_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pretend_checkout(tmp_path, monkeypatch)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")

    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "note").write_text("results are no change of the code")
    said = manifest()["robustlab"]
    assert said == {"version": robustlab.__version__, "commit": commit, "dirty": False}

    module.write_text("changed = True\n")
    assert manifest()["robustlab"]["dirty"] is True


@needs_git
def test_an_installation_inside_another_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q")
    pretend_checkout(tmp_path / "venv" / "site-packages", monkeypatch)
    assert manifest()["robustlab"] == {"version": robustlab.__version__}


def test_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert manifest()["robustlab"] == {"version": robustlab.__version__}
