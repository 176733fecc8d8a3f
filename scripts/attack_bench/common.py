"""What the parts of ``scripts/bench_attack.py`` share."""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlab.errors import UserError

__all__ = ["SEED", "Bench", "Recorder", "note", "ratio", "recipe_named", "run_campaign", "silence"]

SEED = 0


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured: the options, and a folder for the models' files."""

    options: argparse.Namespace
    place: Path

    @property
    def device(self) -> str:
        """Where everything runs, ours and theirs."""
        return str(self.options.device)

    @property
    def auto(self) -> str:
        """What ``--dtype auto`` is on this device."""
        from robustlab.models.device import resolve_device, resolve_dtype

        dtype = str(resolve_dtype("auto", resolve_device(self.device)))
        return {"torch.float32": "fp32", "torch.bfloat16": "bf16"}[dtype]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The number formats to measure ours in: fp32, and what auto is if that is another."""
        return ("fp32",) if self.auto == "fp32" else ("fp32", self.auto)


class Recorder:
    """A target that keeps the requests it was asked, and how long it took for each kind."""

    def __init__(self, target: Any) -> None:
        self.requests: list[Any] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.target = target
        self.spec, self.kind = target.spec, target.kind
        self.answers, self.label_names = target.answers, target.label_names

    def answer(self, request: Any) -> Any:
        """As the target does."""
        self.requests.append(request)
        start = time.perf_counter()
        response = self.target.answer(request)
        self.seconds[type(request).__name__] += time.perf_counter() - start
        return response

    def fingerprint(self) -> str:
        """The target's."""
        return str(self.target.fingerprint())

    def describe(self) -> Mapping[str, Any]:
        """The target's."""
        described: Mapping[str, Any] = self.target.describe()
        return described

    def vocabulary(self) -> Any:
        """The target's."""
        return self.target.vocabulary()


def recipe_named(name: str) -> Any:
    """A recipe by its name or file.

    Raises:
        UserError: there is none, or it is a suite.
    """
    from robustlab.attack.recipe import Suite, load_recipe

    recipe = load_recipe(name)
    if isinstance(recipe, Suite):
        raise UserError(f"{name} is a suite; name one of its recipes")
    return recipe


def run_campaign(campaign: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Summary and outcomes of a campaign, whose run directory is thrown away."""
    from robustlab.runs import RunDirectory

    with tempfile.TemporaryDirectory() as folder:
        manifest = campaign.manifest(arguments={})
        with RunDirectory.create(Path(folder) / "run", manifest) as run:
            summary = campaign.run(run)
            return summary, run.outcomes()


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """How many times faster ours is: the median over chunks, the least and the most."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


@contextmanager
def silence() -> Iterator[None]:
    """Keep the peers' progress bars and summaries out of the tables."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def note(text: str) -> None:
    """How far the measuring is, for who waits."""
    print(text, file=sys.stderr, flush=True)
