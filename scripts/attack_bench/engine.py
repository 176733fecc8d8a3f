"""How near a run of the attack engine is to one ideal pass over the same texts."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attack_bench.classifier import campaign_on, classifier_folder, classifier_target
from attack_bench.common import SEED, Bench, Recorder, note, ratio, recipe_named, run_campaign
from robustlab.errors import UserError

__all__ = ["bench_engine"]

# Started by a large process, a program would be charged that one's memory as its own peak; so a
# small one in between starts it and prints its peak, in KiB.
_MEASURE = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def bench_engine(bench: Bench) -> dict[str, Any]:
    """Whole runs and ideal passes in turn.

    The ideal is one request for all texts that the run had the model read, each once; the target
    sorts them by length and packs them. Both are spared repeated queries, so both have the same
    number of them.
    """
    recipe = recipe_named(bench.options.recipe)
    measured = {}
    for dtype in bench.dtypes:
        recorder = Recorder(classifier_target(bench, dtype))
        campaign = campaign_on(bench, recorder, recipe)
        run_campaign(campaign.variant(examples=campaign.examples.examples[:2]))  # warm
        rounds = [_round(campaign, recorder) for _ in range(bench.options.rounds)]
        note(f"engine: {dtype} done")
        summary, texts, _ = rounds[-1]
        queries = summary.queries_total
        walls = [s.wall_seconds for s, _, _ in rounds]
        ideals = [seconds for _, _, seconds in rounds]
        measured[dtype] = {
            "queries": queries,
            "texts_read": texts,
            "wall_seconds": walls,
            "ideal_seconds": ideals,
            "queries_per_second": queries / statistics.median(walls),
            "ideal_queries_per_second": queries / statistics.median(ideals),
            "model_share": statistics.median(
                s.model_seconds / s.wall_seconds for s, _, _ in rounds
            ),
            "of_ideal": ratio(ideals, walls),
            "peak_mib": _peak_memory(bench, dtype),
            "peak_gpu_mib": _peak_gpu_memory(bench, campaign),
        }
    return {
        "recipe": recipe.name,
        "data": bench.options.data,
        "examples": len(campaign.examples.examples),
        "rounds": bench.options.rounds,
        "dtypes": measured,
    }


def _round(campaign: Any, recorder: Recorder) -> tuple[Any, int, float]:
    """A run's summary, how many texts it had read, and how long one pass over them takes."""
    from robustlab.models.target import Predict

    recorder.requests.clear()
    summary, _ = run_campaign(campaign.variant())
    asked = [request for request in recorder.requests if isinstance(request, Predict)]
    texts = tuple(dict.fromkeys(text for request in asked for text in request.texts))
    start = time.perf_counter()
    recorder.target.answer(Predict(texts))
    return summary, len(texts), time.perf_counter() - start


def _peak_memory(bench: Bench, dtype: str) -> float:
    """Peak resident memory of ``robustlab attack`` on the same examples, in MiB."""
    options = bench.options
    with tempfile.TemporaryDirectory() as out:
        arguments = {
            "target": classifier_folder(bench),
            "data": options.data,
            "recipe": options.recipe,
            "limit": options.examples,
            "seed": SEED,
            "device": bench.device,
            "dtype": dtype,
            "out": Path(out, "run"),
        }
        command = [sys.executable, "-m", "robustlab", "attack", "--json"]
        for name, value in arguments.items():
            command += [f"--{name}", str(value)]
        measure = [sys.executable, "-c", _MEASURE, *command]
        done = subprocess.run(measure, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"robustlab attack ended with {done.returncode}: {done.stderr.strip()}")
    return int(done.stdout) / 1024


def _peak_gpu_memory(bench: Bench, campaign: Any) -> float | None:
    """What PyTorch allocated at most on the GPU during a run, weights included, in MiB."""
    import torch

    if bench.device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    run_campaign(campaign.variant())
    return torch.cuda.max_memory_allocated() / 2**20
