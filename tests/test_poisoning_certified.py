"""Certified below, empirical above: one run holds both, and refuses a certificate that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustlab.defense.certificates import Certificate
from robustlab.defense.majority import MajorityVote
from robustlab.poisoning import attack_rag
from robustlab.runs import RunDirectory

RUN = {
    "corpus": "corpora/fieldguide",
    "recipe": ["poisonedrag-blackbox"],
    "defense": ["majority-vote"],
    "adaptive": False,
    "device": "cpu",
}


def test_certified_accuracy_is_below_robust_accuracy_below_clean_accuracy(tmp_path: Path) -> None:
    found = attack_rag(**RUN, poison_passages=1, top_k=4, limit=6, out=tmp_path / "run").summary
    certified, robust, clean = (
        found[name]["value"] for name in ("certified_accuracy", "robust_accuracy", "clean_accuracy")
    )
    assert certified <= robust <= clean
    assert clean > 0
    outcomes = RunDirectory.open(tmp_path / "run").outcomes()
    assert {outcome["certified"] for outcome in outcomes} <= {True, False}


def test_nothing_is_certified_against_as_many_passages_as_are_read(tmp_path: Path) -> None:
    found = attack_rag(**RUN, poison_passages=3, top_k=3, limit=2, out=tmp_path / "run").summary
    assert "certified_accuracy" not in found


def test_a_broken_certificate_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def certain(self, pipeline, questions, ranked, corruption):
        """Whatever is answered without an attack, and nothing else."""
        answers = self.read(pipeline, questions, ranked)
        return [Certificate.of([answer.answer]) for answer in answers]

    monkeypatch.setattr(MajorityVote, "certify", certain)
    with pytest.raises(RuntimeError, match="certified items were broken"):
        attack_rag(**RUN, poison_passages=2, top_k=3, limit=8, out=tmp_path / "run")
    assert not RunDirectory.open(tmp_path / "run").is_complete
