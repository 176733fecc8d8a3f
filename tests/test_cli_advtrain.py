"""``robustlab advtrain`` end to end on a tiny classifier."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny import save_tiny
from training_tiny import write_data

from robustlab.cli.main import cli
from robustlab.models.load import load_target
from robustlab.models.target import Predict
from robustlab.training.entry import kind_of, options_of, strengths_of


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["advtrain", *map(str, arguments)])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advtrain")
    save_tiny("bert", folder / "bert")
    write_data(folder / "data", train=24, held=6)
    return folder


def begun(place: Path, out: Path, *more: object) -> Any:
    return invoke(
        "--target", place / "bert", "--data", place / "data", "--method", "freelb",
        "--strength", "0,0.5", "--seeds", 2, "--epochs", 1, "--limit-train", 16, "--limit-eval", 4,
        "--suite", "typo-noise", "--batch-size", 8, "--device", "cpu", "--dtype", "fp32",
        "--json", "--out", out, *more,
    )  # fmt: skip


def test_a_curve_from_data_to_files(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = begun(place, out)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [point["label"] for point in found["points"]] == ["none, lora", "freelb 0.5, lora"]
    control, robust = found["points"]
    assert control["control"]
    assert not robust["control"]
    assert control["cost"]["updates"] == robust["cost"]["updates"] == 2
    assert robust["cost"]["forwards"] == 3 * control["cost"]["forwards"]
    assert robust["seeds"] == [0, 1]
    assert control["clean_difference"] is None
    assert 0 <= robust["robust_difference"]["p_holm"] <= 1
    assert "typo-noise" in found["sentence"]
    assert found["trained_by"] not in found["attacks"]["members"]
    rows = list(csv.DictReader((out / "tradeoff.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["method"] for row in rows] == ["none", "freelb"]
    assert found["sentence"].split()[0] in (out / "report.html").read_text(encoding="utf-8")
    model = out / "models" / "freelb-0.5-lora-seed1" / "model"
    target = load_target(str(model), device="cpu", dtype="fp32")
    assert target.label_names == ("negative", "neutral", "positive")
    target.answer(Predict(("a good film",)))
    assert not list(out.rglob("checkpoint*"))
    # Resuming what is complete makes nothing anew, and comes to the same curve.
    before = model.stat().st_mtime_ns
    again = invoke("--resume", out, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["points"] == found["points"]
    assert model.stat().st_mtime_ns == before


def test_several_methods_and_adapters_stand_on_one_curve(place: Path, tmp_path: Path) -> None:
    done = begun(
        place, tmp_path / "run", "--method", "pgd, augment", "--peft", "lora,bitfit", "--seeds", 1,
        "--option", "pgd.steps=1", "--option", "augment.recipe=bad-characters",
        "--probe", place / "data",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [point["label"] for point in found["points"]] == [
        *("none, lora", "pgd 0.5, lora", "augment 0.5, lora"),
        *("none, bitfit", "pgd 0.5, bitfit", "augment 0.5, bitfit"),
    ]
    assert [point["control"] for point in found["points"]] == [True, False, False] * 2
    updates = {point["cost"]["updates"] for point in found["points"]}
    assert updates == {2}
    assert found["points"][1]["cost"]["forwards"] == 4  # one step and one pass, twice
    (before,) = found["probes_before"].items()
    assert before[0] == str(place / "data")
    assert all(0 <= point["probes"][before[0]] <= 1 for point in found["points"])
    assert "on data, " in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    models = tmp_path / "run" / "models"
    same = load_target(str(models / "none-lora-seed0" / "model")).fingerprint()
    assert load_target(str(models / "none-bitfit-seed0" / "model")).fingerprint() != same


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "poison"], "does not train a classifier"),
        (["--strength", "0"], "nothing but the control"),
        (["--strength", "-1"], "below 0"),
        (["--strength", "much"], "no number"),
        (["--suite", "nothing"], "nothing"),
        (["--option", "steps"], "NAME=VALUE"),
        (["--option", "stairs=3"], "no option 'stairs'"),
        (["--option", "pgd.steps=3"], "which no model is trained by"),
        (["--method", "freelb,pdg"], "'pdg' is none of"),
        (["--peft", "lora,ia4"], "'ia4' is none of"),
        (["--defense", "ranmask"], "ranmask repairs no texts"),
        (["--defense", "vae"], "vae is for RAG pipelines"),
    ],
)
def test_mistakes_are_sentences(
    place: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = begun(place, tmp_path / "run", *arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_a_reader_is_not_trained_behind_repairs(tmp_path: Path) -> None:
    done = invoke(
        "--target", "builtin:seq2seq", "--defense", "typo-repair", "--out", tmp_path / "run"
    )
    assert done.exit_code == 2
    assert "--defense is for training a classifier" in done.output


def test_models_are_trained_and_judged_behind_repairs(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = begun(
        place, out, "--seeds", 1, "--method", "mixed", "--option", "min_cosine=null",
        "--defense", "unicode-normalise", "--defense", "typo-repair",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "behind unicode-normalise and typo-repair" in json.loads(done.stdout)["sentence"]
    for model in (out / "models").iterdir():
        manifest = json.loads((model / "attacks/model/typo-noise/manifest.json").read_text())
        names = [defense["name"] for defense in manifest["target"]["defenses"]]
        assert names == ["unicode-normalise", "typo-repair"]


def test_a_student_is_distilled_from_every_model(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = begun(place, run, "--seeds", 1, "--distill-to", place / "bert")
    assert done.exit_code == 0, done.output
    points = {point["label"]: point for point in json.loads(done.stdout)["points"]}
    assert list(points) == [
        *("none, lora", "none, lora, distilled"),
        *("freelb 0.5, lora", "freelb 0.5, lora, distilled"),
    ]
    # The student sees what its teacher saw: three passes an update, where the teacher took three.
    for label in ("none, lora", "freelb 0.5, lora"):
        cost, own = points[label]["cost"], points[f"{label}, distilled"]["cost"]
        assert (cost["forwards"], cost["updates"]) == (own["forwards"], own["updates"])
    made = load_file(run / "models" / "none-lora-seed0" / "distilled" / "model.safetensors")
    before = load_file(place / "bert" / "model.safetensors")
    changed = {name for name, weight in before.items() if not torch.equal(made[name], weight)}
    assert "bert.encoder.layer.0.attention.self.query.weight" in changed
    assert "bert.embeddings.word_embeddings.weight" in changed  # all of it, not adapters alone


def test_a_missing_torchao_is_said_before_anything_is_trained(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name == "torchao" else found(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    done = begun(place, tmp_path / "run", "--quantize", "int8")
    assert done.exit_code == 2
    assert "robustlab[quantize]" in done.output
    assert not (tmp_path / "run").exists()


def test_data_without_a_validation_split_is_refused(place: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    (data / "validation.jsonl").unlink()
    done = begun(place, tmp_path / "run", "--data", data)
    assert done.exit_code == 2
    assert "no validation split" in done.output


def test_a_folder_that_is_no_model_is_refused(place: Path, tmp_path: Path) -> None:
    done = begun(place, tmp_path / "run", "--target", tmp_path)
    assert done.exit_code == 2
    assert "config.json" in done.output


def test_strengths_and_options_are_read() -> None:
    assert strengths_of("1, 0.5,0,0.5") == (0.5, 1.0)
    assert options_of(["recipe=hotflip", "pgd.steps=3"], ["pgd", "augment"]) == {
        "pgd": {"recipe": "hotflip", "steps": 3},
        "augment": {"recipe": "hotflip"},
    }
    assert kind_of("builtin:causal") == "causal"
