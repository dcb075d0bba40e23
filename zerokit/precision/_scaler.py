"""Loss scales that live on the device: the host never waits to learn whether a step overflowed."""

from __future__ import annotations

import torch
from torch import Tensor


class StaticScaler:
    """A loss scale that never changes."""

    def __init__(self, scale: float, device: torch.device):
        self.scale = torch.tensor(scale, dtype=torch.float32, device=device)

    def update(self, ok: Tensor) -> None:
        """A fixed scale takes no note of overflows."""

    def exhausted(self) -> Tensor:
        """Whether the scale cannot shrink any further (0-dim bool): always."""
        return torch.ones_like(self.scale, dtype=torch.bool)

    def state(self) -> dict[str, Tensor]:
        """What a saved state needs."""
        return {"scale": self.scale}


class DynamicScaler:
    """Grows after `window` steps without an overflow; shrinks at an overflow once `hysteresis` of them have passed.

    scale: 0-dim float32. The number of tolerated overflows is restored when the scale grows; where they must be
    `consecutive`, by every step without one.
    """

    def __init__(self, initial: float, window: int, hysteresis: int, minimum: float, growth: float,
                 device: torch.device, consecutive: bool = False):  # fmt: skip
        self.window, self.hysteresis, self.minimum, self.growth = window, hysteresis, minimum, growth
        self.consecutive = consecutive
        self.scale = torch.tensor(initial, dtype=torch.float32, device=device)
        self._good = torch.zeros((), dtype=torch.int64, device=device)
        self._left = torch.full((), hysteresis, dtype=torch.int64, device=device)

    def update(self, ok: Tensor) -> None:
        """Take note of a step: `ok` (0-dim bool) says whether its gradients were finite."""
        self._good.add_(1).mul_(ok)
        grows = self._good == self.window
        shrinks = ~ok & (self._left <= 1)
        factor = torch.where(grows, self.growth, torch.where(shrinks, 1 / self.growth, 1.0))
        self.scale.mul_(factor).clamp_(min=self.minimum)
        restored = grows | ok if self.consecutive else grows
        self._left.copy_(torch.where(restored, self.hysteresis, torch.where(ok | shrinks, self._left, self._left - 1)))
        self._good.mul_(~grows)

    def exhausted(self) -> Tensor:
        """Whether the scale cannot shrink any further (0-dim bool)."""
        return self.scale <= self.minimum

    def state(self) -> dict[str, Tensor]:
        """What a saved state needs."""
        return {"scale": self.scale, "good": self._good, "left": self._left}
