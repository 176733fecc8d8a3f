#!/usr/bin/env python3
"""Speed of attacks against TextAttack and nanoGCG, and how near the engine is to its ceiling.

Four parts, each a Markdown table; ``--only`` chooses some of them:

- *textattack*: examples a second of TextAttack's own wrapper and ``Attacker``, padded to the
  tokenizer's own maximum and to 128 tokens, against ours in fp32 and in ``--dtype auto``: the
  same recipe, weights, examples and random streams; and whether the outcomes are the same;
- *engine*: the share of a run that forward passes take, its queries a second against one request
  for the same texts, and the peak memory of ``robustlab attack``;
- *gcg*: steps a second of nanoGCG and of ours on the same randomly initialised Llama, and whether
  both give the same losses to the same candidates;
- *gpu*: all of this on a GPU, with a BERT-base-size classifier and a Llama of the 1B class.

Peers run in turn, in chunks of examples or rounds of steps, because the speed of a shared machine
drifts; a ratio is the median over the chunks of the ratios within one. Loading is left out. Ours
does more than theirs: each final text is judged anew in a forward pass of its own and measured for
similarity (not with ``--no-similarity``), and every step of GCG generates an output.

    python scripts/bench_attack.py --only textattack engine --examples 100
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from attack_bench.against_nanogcg import LOSS_TOLERANCE, bench_gcg
from attack_bench.against_textattack import bench_textattack
from attack_bench.common import Bench
from attack_bench.engine import bench_engine

from robustlab.errors import UserError

LIBRARIES = ("torch", "transformers", "textattack", "nanogcg")
PARTS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "textattack": bench_textattack,
    "engine": bench_engine,
    "gcg": bench_gcg,
}


def main() -> None:
    """Measure and print."""
    options = _options()
    # TextAttack moves every model to its own choice of device, unless it is told.
    os.environ["TA_DEVICE"] = options.device
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        report: dict[str, Any] = {"setting": _setting(bench)}
        _print_setting(report["setting"])
        for name, measure in PARTS.items():
            if name in options.only:
                report[name] = measure(bench)
                PRINT[name](report[name])
        if "gpu" in options.only:
            report["gpu"] = _on_gpu(bench)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _on_gpu(bench: Bench) -> dict[str, Any] | None:
    """The other parts in a process of their own, with larger models."""
    import torch

    if not torch.cuda.is_available():
        print("GPU: not measured, because PyTorch sees none here.\n")
        return None
    options, file = bench.options, bench.place / "gpu.json"
    command = [sys.executable, __file__, "--only", *PARTS, "--device", "cuda", "--large"]
    command += ["--json", str(file), "--data", options.data, "--recipe", options.recipe]
    command += ["--lengths", *options.lengths, "--widths", *map(str, options.widths)]
    command += ["--similarity" if options.similarity else "--no-similarity"]
    for name in ("examples", "chunk", "rounds", "steps"):
        command += [f"--{name}", str(getattr(options, name))]
    subprocess.run(command, check=True)
    measured: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return measured


# --- what it was measured on --------------------------------------------------------------------


def _setting(bench: Bench) -> dict[str, Any]:
    import torch

    from robustlab.models.device import cpu_multiplies_bf16

    gpu = None if bench.device == "cpu" else torch.cuda.get_device_name(bench.device)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python", f"scripts/{Path(__file__).name}", *sys.argv[1:]]),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16": cpu_multiplies_bf16(),
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": {library: _version(library) for library in LIBRARIES},
        "auto_dtype": bench.auto,
        "similarity": bench.options.similarity,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


# --- tables -------------------------------------------------------------------------------------


def _print_setting(setting: Mapping[str, Any]) -> None:
    versions = ", ".join(
        f"{name} {found or 'absent'}" for name, found in setting["versions"].items()
    )
    place = f"{setting['gpu']}, " if setting["gpu"] else ""
    print(
        f"{place}{setting['cores']} cores of {setting['cpu']}, {setting['threads']} threads, "
        f"native bf16 {'present' if setting['bf16'] else 'absent'}; `--dtype auto` is "
        f"{setting['auto_dtype']}. Python {setting['python']}, {versions}.\n"
        f"{setting['date']}, `{setting['command']}`\n"
    )


def _print_textattack(part: Mapping[str, Any]) -> None:
    ways = part["ways"]
    stock = [name for name, way in ways.items() if not way["faster"]]
    _table(
        f"{part['recipe']} on {part['examples']} examples of {part['data']} (the longest has "
        f"{part['longest_in_tokens']} tokens), in chunks of {part['chunk']}; ratios as median "
        "[least, most] over the chunks",
        ["way", "examples/s", "success rate", *(f"against {name}" for name in stock)],
        [
            [
                name,
                f"{way['examples_per_second']:.2f}",
                _percent(way["attack_success_rate"]),
                *(_times(way["faster"][peer]) if way["faster"] else "" for peer in stock),
            ]
            for name, way in ways.items()
        ],
    )
    for name, same in part["equal_in_fp32"].items():
        differ, rounding = same["differ"], same["differ_by_rounding"]
        more = (
            f"; of the {len(differ)} others, {len(rounding)} come out as ours if TextAttack's own "
            f"loop is given rounded scores ({', '.join(differ)})"
            if differ
            else ""
        )
        print(
            f"Same status and text in fp32 as {name}: {same['equal']} of {part['examples']}{more}."
        )
    print(flush=True)


def _print_engine(part: Mapping[str, Any]) -> None:
    _table(
        f"The engine, {part['recipe']} on {part['examples']} examples of {part['data']}, "
        f"{part['rounds']} rounds",
        [
            "dtype",
            "queries",
            "texts read",
            "model/wall",
            "queries/s",
            "in one pass",
            "share of it",
            "peak memory",
        ],
        [
            [
                dtype,
                f"{row['queries']:,}",
                f"{row['texts_read']:,}",
                f"{row['model_share']:.2f}",
                f"{row['queries_per_second']:.1f}",
                f"{row['ideal_queries_per_second']:.1f}",
                _spread(row["of_ideal"]),
                _memory(row),
            ]
            for dtype, row in part["dtypes"].items()
        ],
    )


def _print_gcg(part: Mapping[str, Any]) -> None:
    if part["nanogcg_prefix_cache"]:
        cache = "nanoGCG with its prefix cache"
    else:
        cache = (
            "nanoGCG with `use_prefix_cache=False`, because with it it ends in "
            f"`{part['nanogcg_prefix_cache_fails']}`"
        )
    _table(
        f"GCG, {part['model']} in {part['dtype']}: {part['prompt_tokens']} tokens of prompt, "
        f"{part['suffix_tokens']} of suffix, {part['wanted_tokens']} and the end wanted, top_k "
        f"{part['top_k']}, {part['rounds']} rounds of {part['steps']} steps; {cache}",
        ["width", "nanoGCG steps/s", "robustlab steps/s", "ratio", "candidates scored a step"],
        [
            [
                width,
                f"{row['nanogcg']['steps_per_second']:.2f}",
                f"{row['robustlab']['steps_per_second']:.2f}",
                _times(row["faster"]),
                f"{row['nanogcg']['candidates_per_step']:.0f} and "
                f"{row['robustlab']['candidates_per_step']:.0f}",
            ]
            for width, row in part["widths"].items()
        ],
    )
    for width, row in part["widths"].items():
        apart = row["largest_difference"]
        verdict = "within" if max(apart.values()) <= LOSS_TOLERANCE else "NOT within"
        in_fp32 = f"({verdict} {LOSS_TOLERANCE:.0e})" if part["dtype"] == "float32" else ""
        kinds = ", ".join(f"{share:.0%} {kind}" for kind, share in row["robustlab_time_in"].items())
        print(
            f"Losses of the same candidates, width {width}: at most "
            f"{apart['random_candidates']:.1e} apart for {width} random suffixes, "
            f"{apart['path_of_nanogcg']:.1e} along nanoGCG's own path {in_fp32}. "
            f"Time of ours in the model: {kinds}."
        )
    print(flush=True)


PRINT: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "textattack": _print_textattack,
    "engine": _print_engine,
    "gcg": _print_gcg,
}


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"{title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def _percent(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return "nothing attacked"
    low, high = 100 * rate["low"], 100 * rate["high"]
    return f"{100 * rate['value']:.1f} % [{low:.1f}, {high:.1f}]"


def _spread(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _times(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} × [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _memory(row: Mapping[str, Any]) -> str:
    gpu = f", {row['peak_gpu_mib']:,.0f} MiB on the GPU" if row["peak_gpu_mib"] else ""
    return f"{row['peak_mib']:,.0f} MiB{gpu}"


# --- options ------------------------------------------------------------------------------------


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parts = [*PARTS, "gpu"]
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=parts, help="parts to run (all)"
    )
    parser.add_argument("--examples", type=_positive, default=100, metavar="N")
    parser.add_argument("--chunk", type=_positive, default=25, metavar="N", help="examples in turn")
    parser.add_argument(
        "--rounds", type=_positive, default=3, metavar="N", help="of whole runs and of GCG"
    )
    parser.add_argument(
        "--steps", type=_positive, default=25, metavar="N", help="of GCG in a round"
    )
    parser.add_argument("--widths", nargs="+", type=_positive, default=[64, 256], metavar="N")
    parser.add_argument(
        "--lengths",
        nargs="+",
        default=["own", "128"],
        metavar="N",
        help="tokens that TextAttack pads to; own is the tokenizer's maximum",
    )
    parser.add_argument("--data", default="reviews", metavar="SPEC", help="labelled data")
    parser.add_argument("--recipe", default="deepwordbug", metavar="NAME", help="of TextAttack's")
    parser.add_argument(
        "--similarity",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the similarity of final texts, as robustlab attack does",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--large", action="store_true", help="models of the size for a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"bench_attack: {error}")
