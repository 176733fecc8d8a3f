"""The result of an attack in a sentence or two."""

from __future__ import annotations

from collections.abc import Iterator

from robustlab.report.results import Results

__all__ = ["attack_sentence"]


def attack_sentence(results: Results) -> str:
    """What came of the attack, in words."""
    attacked, broken = len(results.whole.attacked), len(results.whole.broken)
    if results.is_pipeline:
        return " ".join(_of_pipeline(results, attacked, broken))
    if not attacked:
        return (
            "No example was attacked: the target got none of them right, or none could be judged."
        )
    if results.is_suite:
        who = "At least one recipe broke"
    elif results.whole.embedded:
        who = "Perturbing embeddings, which no text realises, broke"
    else:
        who = "The attack broke"
    return f"{who} {broken:,} of the {attacked:,} examples that the target gets right without it."


def _of_pipeline(results: Results, attacked: int, broken: int) -> Iterator[str]:
    """Whether the poison was retrieved, and whether the adversary got the answer that it wants."""
    summary = results.whole.summary
    retrieved = summary.get("poison_retrieved")
    if retrieved and retrieved["n"]:
        found = round(retrieved["value"] * retrieved["n"])
        yield f"Poison was retrieved for {found:,} of {retrieved['n']:,} questions."
    goal = (results.manifest.get("threat_model") or {}).get("goal")
    if not attacked:
        yield "No question was answered rightly without the attack, or none could be judged."
    elif goal != "retrieve-poison" or results.is_suite:
        who = (
            "At least one recipe reached its goal"
            if results.is_suite
            else _REACHED.get(str(goal), "The attack reached its goal")
        )
        yield (
            f"{who} on {broken:,} of the {attacked:,} questions that are answered rightly "
            "without it."
        )


_REACHED = {
    "wrong-answer": "The wrong answer that the adversary wants was given",
    "no-answer": "No answer was given",
}
