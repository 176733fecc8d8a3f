"""The published corpus-poisoning procedure in its straightforward form, to be measured against.

One passage at a time. A step draws a batch of the cluster's training questions, encodes them and
their gold passages padded to a fixed length, takes the gradient of the mean similarity at the
passage, draws one of its tokens, encodes the batch again, and then one candidate after the other;
the best is taken if it is more similar on the batch, or nearer than gold for more of its questions.
What the procedure also does from time to time, measuring itself on validation questions, is left
out.

References:
    Zhong et al. 2023, "Poisoning Retrieval Corpora by Injecting Adversarial Passages",
    arXiv:2310.19156
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Straightforward"]

_BATCH = 64
_PADDED_TO = 128


class Straightforward:
    """One passage of mask tokens on its way to the questions of a cluster.

    ``questions`` and ``gold``: texts, paired. ``kept``: a form kinder than the published one: the
    embeddings of questions and gold passages are computed once, and all candidates of a step are
    one batch.
    """

    def __init__(
        self,
        encoder: Any,
        questions: Sequence[str],
        gold: Sequence[str],
        *,
        length: int,
        candidates: int,
        seed: int,
        kept: bool,
    ) -> None:
        import torch

        self._model = encoder.module
        self._device = self._model.device
        self._layer = self._model.transformers_model.get_input_embeddings()
        self._pairs = [list(questions), list(gold)]
        self._candidates = candidates
        self._rng = np.random.default_rng(seed)
        mask = self._model.tokenizer.mask_token_id
        self._ids = torch.full((1, length), mask, device=self._device)
        self._kept = [self._padded(texts) for texts in self._pairs] if kept else None

    def step(self) -> None:
        """One iteration."""
        import torch

        from robustlab.models._gradients import EmbeddingTap

        length = self._ids.shape[1]
        questions, gold = self._batch()
        with torch.enable_grad(), EmbeddingTap(self._layer) as tap:
            similar = questions @ self._embed(self._ids).T
            (-similar.mean()).backward()
        (gradient,) = tap.gradients([length])
        place = int(self._rng.integers(length))
        with torch.inference_mode():
            slope = torch.from_numpy(gradient[place]).to(self._layer.weight)
            tokens = (-(self._layer.weight @ slope)).topk(self._candidates).indices
            questions, gold = self._batch()
            to_gold = (questions * gold).sum(1, keepdim=True)
            current = self._scores(questions @ self._embed(self._ids).T, to_gold)
            tried = self._ids.repeat(len(tokens), 1)
            tried[:, place] = tokens
            apart = [tried[i : i + 1] for i in range(len(tried))]
            rows = apart if self._kept is None else [tried]
            scores = torch.cat(
                [self._scores(questions @ self._embed(row).T, to_gold) for row in rows], dim=1
            )
            if bool((scores > current).any()):
                self._ids = tried[scores[0].argmax()][None].clone()

    def vector(self) -> Any:
        """The passage's embedding, float32 (width,)."""
        import torch

        with torch.inference_mode():
            return self._embed(self._ids)[0].float().cpu().numpy()

    def _batch(self) -> tuple[Any, Any]:
        """Embeddings of some questions and their gold passages, (batch, width) each."""
        size = min(_BATCH, len(self._pairs[0]))
        rows = self._rng.permutation(len(self._pairs[0]))[:size].tolist()
        if self._kept is not None:
            return self._kept[0][rows], self._kept[1][rows]
        first, second = (self._padded([texts[i] for i in rows]) for texts in self._pairs)
        return first, second

    @staticmethod
    def _scores(similar: Any, to_gold: Any) -> Any:
        """Mean similarity, and the number of questions nearer than to gold; (2, passages)."""
        import torch

        return torch.stack([similar.mean(0), (similar >= to_gold).float().sum(0)])

    def _padded(self, texts: Sequence[str]) -> Any:
        import torch

        parts = []
        for start in range(0, len(texts), _BATCH):
            batch = self._model.tokenizer(
                list(texts[start : start + _BATCH]),
                padding="max_length",
                max_length=_PADDED_TO,
                truncation=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                parts.append(self._pooled({k: v.to(self._device) for k, v in batch.items()}))
        return torch.cat(parts)

    def _embed(self, ids: Any) -> Any:
        import torch

        return self._pooled({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def _pooled(self, batch: dict[str, Any]) -> Any:
        from torch.nn.functional import normalize

        return normalize(self._model(batch)["sentence_embedding"].float(), dim=1)
