"""Parameters that no micro-batch of a step used on any rank: left alone, as PyTorch leaves those without a gradient.

Neither weight decay nor momentum moves them, and their own step count, on which Adam's bias correction rests, stands
still. The host knows of each parameter whether this rank used it, and the ranks' flags travel with the norm of the
gradients. A rank that used all of a step's parameters needs to know no more; one that did not asks the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zerokit.zero.rows.lookup import on_device
from zerokit.zero.unit import Unit


class Unused:
    """What is known of the parameters of `units` (all trainable).

    numbers: of parameters, by unit and place in it, in the order of their names. lag: (parameters,) float64, how many
    of the steps taken each was not used in. irregular: numbers of those that this rank has once not used.
    """

    def __init__(self, units: Sequence[Unit], device: torch.device):
        places = [(name, unit, index) for unit in units for index, name in enumerate(unit.names)]
        places.sort(key=lambda place: place[0])
        self.names = [name for name, _, _ in places]
        self.numbers = {(unit, index): number for number, (_, unit, index) in enumerate(places)}
        self.lag = torch.zeros(len(places), dtype=torch.float64, device=device)
        self.used = torch.ones(len(places), dtype=torch.bool, device=device)
        self.irregular: set[int] = set()
        self._all = torch.ones(len(places), dtype=torch.float64, device=device)
        self._missing: dict[Unit, set[int]] = {}

    def note(self, unit: Unit, gradients: Sequence[Tensor | None], first: bool) -> None:
        """Gradients of a micro-batch, the `first` of its step or a later one."""
        missing = set() if unit.rows else {index for index, g in enumerate(gradients) if g is None}
        self._missing[unit] = missing if first else self._missing.get(unit, missing) & missing

    def flags(self) -> Tensor:
        """1 for each parameter that this rank used in the step, else 0: (parameters,) float64."""
        absent = [self.numbers[unit, index] for unit, missing in self._missing.items() for index in missing]
        if not absent:
            return self._all
        self.irregular.update(absent)
        flags = self._all.clone()
        flags[on_device(tuple(absent), flags.device)] = 0.0
        return flags

    def settle(self, counts: Tensor) -> None:
        """How many ranks used each parameter in the step."""
        torch.gt(counts, 0, out=self.used)

    def taken(self, ok: Tensor) -> None:
        """The step was taken, if `ok` (0-dim bool)."""
        if self.irregular:
            self.lag += ok & ~self.used

    def loaded(self) -> None:
        """`lag` was written from outside. Waits for the device."""
        self.irregular = set(self.lag.nonzero().flatten().tolist())

    def own_steps(self, steps: Tensor) -> dict[str, Tensor]:
        """By name, in how many of the `steps` taken (0-dim) each parameter was used."""
        return dict(zip(self.names, (steps - self.lag).unbind(), strict=True))

    def start_with(self, own_steps: Mapping[str, Tensor], steps: Tensor) -> None:
        """Go on with what `own_steps` said; what is new was used in none."""
        for number, name in enumerate(self.names):
            self.lag[number] = steps - own_steps.get(name, 0.0)
        self.loaded()
