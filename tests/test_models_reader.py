"""The built-in readers' architecture, on tiny random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from robustlab.errors import UserError
from robustlab.models.blocks import block_attention, lay_out, split_heads
from robustlab.models.builtin import merge_parameters
from robustlab.models.reader import Reader, ReaderConfig, new_reader, read_config, read_layout
from robustlab.models.reader_backend import ReaderBackend
from robustlab.models.target import FloatArray

CLS, SEP, MASK = 101, 102, 103


def tiny(kind: str) -> Reader:
    config = ReaderConfig(
        f"robustlab-{kind}",
        vocab_size=160,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
        max_position_embeddings=40,
        decoder_init=(0,),
    )
    torch.manual_seed(3)
    reader = new_reader(config).eval()
    for parameter in reader.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return reader


def prompt(kind: str, question: list[int], *passages: list[int]) -> list[int]:
    ids = [CLS, *question, SEP]
    for passage in passages:
        ids += [*passage, SEP]
    return ids + ([MASK] if kind == "causal" else [])


def padded(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


@pytest.fixture(params=["seq2seq", "causal"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_layout_restarts_positions_after_the_question() -> None:
    ids = torch.tensor([[CLS, 5, SEP, 6, 7, SEP, 8, SEP, MASK, 9, 0]])
    layout = read_layout(ids, ReaderConfig("robustlab-causal"))
    assert layout.segments[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert layout.positions[0, :10].tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 3, 4]
    assert layout.tail[0].tolist() == [False] * 8 + [True] * 3
    assert layout.copyable[0].nonzero().flatten().tolist() == [1, 3, 4, 6, 9]


def test_generation_agrees_with_teacher_forcing(kind: str) -> None:
    reader = tiny(kind)
    ids = padded([prompt(kind, [5, 6], [7, 8, 9], [10, 11]), prompt(kind, [12], [13, 14])])
    tokens, log_probs, _ = reader.generate(ids, 7)
    scored = reader.token_log_probs(ids, tokens).sum(1)
    torch.testing.assert_close(scored, log_probs, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_its_batch(kind: str) -> None:
    reader = tiny(kind)
    rows = [prompt(kind, [5, 6], [7, 8, 9], [10, 11, 12, 13]), prompt(kind, [14], [15, 16])]
    together, sums, margins = reader.generate(padded(rows), 5)
    for number, row in enumerate(rows):
        alone, single, margin = reader.generate(padded([row]), 5)
        width = alone.shape[1]
        assert together[number, :width].tolist() == alone[0].tolist()
        torch.testing.assert_close(sums[number : number + 1], single, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(margins[number : number + 1], margin, rtol=1e-4, atol=1e-4)


def test_the_margin_is_the_smallest_lead_over_the_second_best_token(kind: str) -> None:
    """Found again by trying every token at every place of the answer, teacher-forced."""
    reader = tiny(kind)
    ids = torch.tensor([prompt(kind, [5, 6], [7, 8, 9])])
    tokens, _, margins = reader.generate(ids, 4)
    answer = [token for token in tokens[0].tolist() if token]
    vocabulary = reader.config.vocab_size - 1
    leads = []
    for place in range(len(answer)):
        # Padding counts as no token in an answer, so it is left out.
        tried = [[*answer[:place], token] for token in range(1, vocabulary + 1)]
        found = reader.token_log_probs(ids.expand(vocabulary, -1), torch.tensor(tried))[:, place]
        best, second = found.topk(2).values.tolist()
        leads.append(best - second)
    assert len(leads) > 1
    assert float(margins[0]) == pytest.approx(min(leads), abs=1e-4)


def test_passages_do_not_see_each_other_in_the_decoder_only_reader() -> None:
    """Swapping two passages must not change the first-token distribution."""
    reader = tiny("causal")
    first, second = [7, 8, 9], [10, 11, 12]
    answer = torch.tensor([[8, SEP]])
    one = reader.token_log_probs(torch.tensor([prompt("causal", [5], first, second)]), answer)
    two = reader.token_log_probs(torch.tensor([prompt("causal", [5], second, first)]), answer)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_the_decoder_only_reader_reads_a_passage_in_both_directions() -> None:
    """A token's state changes with what follows it in the prompt, and not with the answer."""
    reader = tiny("causal")
    first = 3  # behind [CLS] question [SEP]

    def state(last: int, answer: int) -> torch.Tensor:
        ids = torch.tensor([prompt("causal", [5], [7, 8, last])])
        return reader.answer_states(ids, torch.tensor([[answer, SEP]])).source.keys[0, first]

    assert not torch.allclose(state(9, 8), state(12, 8), atol=1e-4)
    torch.testing.assert_close(state(9, 8), state(9, 30), rtol=1e-4, atol=1e-4)


def test_the_answer_of_the_decoder_only_reader_is_causal() -> None:
    """A token's log-probability must not change with what follows it."""
    reader = tiny("causal")
    ids = torch.tensor([prompt("causal", [5, 6], [7, 8, 9])])
    short = reader.token_log_probs(ids, torch.tensor([[8, 9, SEP]]))
    other = reader.token_log_probs(ids, torch.tensor([[8, 9, 30, 31, SEP]]))
    torch.testing.assert_close(short[:, :2], other[:, :2], rtol=1e-4, atol=1e-4)


def test_blocks_allow_the_pairs_that_a_mask_over_the_whole_prompt_would() -> None:
    """Attention in blocks against one call with a mask, over passages of very unlike length."""
    torch.manual_seed(0)
    rows = [
        [*prompt("causal", [5, 6], list(range(7, 40)), [10], [11, 12, 13]), 8, 9],
        prompt("causal", [14], []),
        prompt("causal", [15, 16, 17], list(range(20, 29)), [18]),
    ]
    ids = padded(rows)
    layout = read_layout(ids, ReaderConfig("robustlab-causal"))
    blocks = lay_out(layout.real, layout.segments, layout.tail)
    query, key, value = torch.randn(3, *ids.shape, 24).unbind()

    question = layout.segments == 0
    same = layout.segments.unsqueeze(2) == layout.segments.unsqueeze(1)
    mask = (same | question.unsqueeze(1) | question.unsqueeze(2)) & ~layout.tail.unsqueeze(1)
    left = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    mask = torch.where(layout.tail.unsqueeze(2), left, mask) & layout.real.unsqueeze(1)
    heads = [split_heads(part, 3) for part in (query, key, value)]
    whole = scaled_dot_product_attention(*heads, attn_mask=mask.unsqueeze(1))

    flat = [blocks.flat(part) for part in (query, key, value)]
    found = blocks.dense(block_attention(*flat, blocks, 3))
    expected = whole.transpose(1, 2).flatten(2)
    torch.testing.assert_close(found[layout.real], expected[layout.real], rtol=1e-4, atol=1e-5)


def test_probabilities_sum_to_one(kind: str) -> None:
    reader = tiny(kind)
    ids = torch.tensor([prompt(kind, [5, 6], [7, 8, 9])])
    vocabulary = reader.config.vocab_size
    # Padding counts as no token in an answer, so it is left out of the sum.
    answers = torch.arange(1, vocabulary).unsqueeze(1)
    total = reader.token_log_probs(ids.expand(vocabulary - 1, -1), answers).exp().sum().detach()
    assert 0.9 < float(total) <= 1.0001


def test_copying_follows_a_span() -> None:
    """With a strong bonus and an open gate the answer goes on where it started."""
    reader = tiny("causal")
    with torch.no_grad():
        reader.head.follow.fill_(50.0)
        reader.head.gate.weight.zero_()
        reader.head.gate.bias.fill_(20.0)
    tokens, _, _ = reader.generate(torch.tensor([prompt("causal", [], [21, 22, 23, 24, 25])]), 3)
    answer = tokens[0].tolist()
    text = [21, 22, 23, 24, 25]
    start = text.index(answer[0])
    expected = text[start : start + 3]
    assert answer[: len(expected)] == expected


def test_gradients_and_shifts_of_the_backend_match_a_finite_difference(kind: str) -> None:
    """Along the gradient itself, at embeddings that are no token's."""
    backend = ReaderBackend(tiny(kind), None, torch.device("cpu"))
    prompts = [prompt(kind, [5, 6], [7, 8, 9]), prompt(kind, [10], [11, 12])]
    outputs = [[8], [11, 12]]
    rng = np.random.default_rng(0)
    shifts = [rng.normal(0, 0.2, (len(ids), 24)).astype(np.float32) for ids in prompts]

    def losses(amount: float, directions: list[FloatArray]) -> list[float]:
        moved = [shift + amount * way for shift, way in zip(shifts, directions, strict=True)]
        return [item.loss for item in backend.gradient(prompts, outputs, moved)]

    found = backend.gradient(prompts, outputs, shifts)
    norms = [float(np.linalg.norm(item.gradient)) for item in found]
    ways = [item.gradient / norm for item, norm in zip(found, norms, strict=True)]
    up, down = losses(1e-2, ways), losses(-1e-2, ways)
    measured = [(above - below) / 2e-2 for above, below in zip(up, down, strict=True)]
    assert measured == pytest.approx(norms, rel=0.03)

    plain = backend.gradient(prompts, outputs)
    unmoved = backend.gradient(prompts, outputs, [np.zeros_like(shift) for shift in shifts])
    for one, other, moved in zip(plain, unmoved, found, strict=True):
        assert other.loss == pytest.approx(one.loss, abs=1e-6)
        np.testing.assert_allclose(other.gradient, one.gradient, atol=1e-6)
        assert abs(moved.loss - one.loss) > 1e-3
    score = backend.score(prompts, outputs)
    assert [-item.loss * n for item, n in zip(plain, (2, 3), strict=True)] == pytest.approx(
        score.tolist(), abs=1e-4
    )


def test_config_round_trip(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "config.json"
    config = ReaderConfig("robustlab-seq2seq", decoder_init=(1, 2, 3))
    config.save(path)
    assert read_config(path) == config


def test_merge_adds_adapters_and_replaces_the_rest() -> None:
    module = torch.nn.Linear(3, 2)
    before = module.weight.detach().clone()
    a, b = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [-1.0]])
    bias = torch.tensor([5.0, 6.0])
    wrapped = torch.nn.ModuleDict({"part": module})
    parameters = {"part.lora_A": a, "part.lora_B": b, "part.bias": bias}
    merge_parameters(wrapped, parameters)
    added = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
    torch.testing.assert_close(module.weight.detach(), before + added)
    torch.testing.assert_close(module.bias.detach(), bias)
    with pytest.raises(UserError, match="does not fit"):
        merge_parameters(wrapped, {"other.bias": bias})
