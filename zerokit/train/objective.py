"""What a step minimises: the mean loss over the targets that are not masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from zerokit.config.checks import check_mean
from zerokit.config.data_info import IGNORED, DataInfo
from zerokit.train.loader import Inputs

Loss = Callable[[Inputs, Tensor], Tensor]


class Objective:
    """The loss of a micro-batch, and what it counts in the mean of a step.

    Args:
        loss: inputs, targets → mean over the targets that are not `IGNORED` (0-dim). info: of the data.
        mean: `tokens` of all micro-batches and ranks alike, `samples` (each micro-batch alike), or None: by the data.
        shifts: whether the model predicts the labels of a mapping from what is before them, so that the first of a row
            is never a target.
        predict: inputs, targets → mean loss and logits, for accuracies; None: there are none.

    Raises:
        ConfigError: a mean over tokens of data that have none.
    """

    def __init__(self, loss: Loss, info: DataInfo, mean: str | None = None, shifts: bool = False,
                 predict: Callable[[Inputs, Tensor], tuple[Tensor, Tensor]] | None = None):  # fmt: skip
        check_mean(mean, info.task)
        self.loss = loss
        self.mean = mean or info.counted
        self._shifts, self._predict = shifts, predict
        self._maskable = info.task != "regression"

    def __call__(self, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """The mean loss of a micro-batch (0-dim), and the tokens it is over; None where micro-batches count alike."""
        loss, count = self.counted(inputs, targets)
        return (loss, count) if self.mean == "tokens" else (loss * (count > 0), None)

    def counted(self, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        """The mean loss of a micro-batch (0-dim), and how many targets it is over; with none it is finite, no more.

        [Note: nothing to learn] Many a loss is NaN where every target is masked, and no factor makes zero of that. So
        such a micro-batch is run as if its targets were class 0, and then counts for nothing.
        """
        if not self._maskable:
            return self.loss(inputs, targets), len(targets)
        reached = targets[:, 1:] if self._shifts and isinstance(inputs, Mapping) else targets
        count = (reached != IGNORED).sum()
        return self.loss(inputs, targets.masked_fill(count == 0, 0)), count

    @property
    def scores(self) -> bool:
        """Whether it can be told which targets a model predicts: classes and masked tokens, whose logits are small."""
        return self._predict is not None

    def scored(self, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor | int, Tensor | int]:
        """`counted`, and how many targets are the likeliest (0 where that is not told)."""
        if self._predict is None:
            return *self.counted(inputs, targets), 0
        loss, logits = self._predict(inputs, targets)
        count = targets != IGNORED
        return loss, count.sum(), ((logits.argmax(-1) == targets) & count).sum()


def weighted(loss: Tensor, weight: Tensor | float) -> Tensor:
    """The loss times its weight, and the weight: (2,) float64, detached; sums of these give a mean."""
    loss = loss.detach().double()
    return torch.stack((loss, torch.ones_like(loss))) * weight
