"""Tokens that are hidden and predicted where they stand, as BERT is trained (Devlin et al. 2018, arXiv 1810.04805)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zerokit.config.data_info import IGNORED
from zerokit.data._source import mixed

HIDDEN, RANDOM = 0.8, 0.1
"""Shares of the chosen tokens that become the mask, or any token; the others stay as they are."""


def hide(batch: dict[str, Tensor], indices: Sequence[int], percent: int, seed: int, mask: int, special: Sequence[int],
         vocab_size: int) -> dict[str, Tensor]:  # fmt: skip
    """The batch with `percent` of the tokens of each row chosen: labels at these alone, most of them hidden.

    indices: of the rows in the run, by which the choice differs. special: tokens that are never chosen.
    """
    ids = batch["input_ids"].clone()
    free = ~torch.isin(ids, torch.tensor(special))
    if "attention_mask" in batch:
        free &= batch["attention_mask"].bool()
    labels = torch.full_like(ids, IGNORED)
    for row, index in enumerate(indices):
        generator = torch.Generator().manual_seed(mixed(seed, index))
        chance, kind = torch.rand(2, ids.shape[1], generator=generator)
        others = torch.randint(vocab_size, ids.shape[1:], generator=generator)
        chosen = free[row] & (chance < percent / 100)
        labels[row] = torch.where(chosen, ids[row], IGNORED)
        ids[row].masked_fill_(chosen & (kind < HIDDEN), mask)
        ids[row] = torch.where(chosen & (kind >= HIDDEN) & (kind < HIDDEN + RANDOM), others, ids[row])
    return {**batch, "input_ids": ids, "labels": labels}
