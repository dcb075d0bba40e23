"""Momenta instead of gradients on the wire: one bit per element and a scale per parameter and shard, with feedback.

Source: Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed", ICML
2021, algorithm 1.

Every rank's own momentum goes the way of a gradient, PARTIAL to SHARD to REPLICATE: each rank compresses its own and
sends to each shard's owner that shard (an all-to-all), the owner takes the mean over the ranks, compresses it and sends
it to all (an all-gather). What a compression loses is kept by whoever compressed and added to what it compresses next:
`worker_error`, a PARTIAL state, and `server_error`, a SHARD state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.comm.mesh import Mesh
from zerokit.config.errors import ConfigError
from zerokit.zero.layout import ALIGNMENT, Span
from zerokit.zero.placement import Stage, evenly
from zerokit.zero.storage import Storage
from zerokit.zero.unit import Unit


def exact_steps(rules: Sequence[Any], stage: Stage, mesh: Mesh) -> int | None:
    """Steps after which gradients stay apart; None: never.

    Raises:
        ConfigError: at this stage, or with these rules beside each other, they cannot.
    """
    limits = {rule.exact_steps for rule in rules}
    if limits == {None}:
        return None
    if len(limits) > 1:
        shown = ", ".join(str(limit) for limit in sorted(limits, key=str))
        raise ConfigError(
            f"All parameters must change to compressed communication after the same step, got {shown}: leave "
            "freeze_step out of optimizer.groups."
        )
    if len(mesh.sizes) > 1:
        raise ConfigError(
            "optimizer=onebit_adam compresses what travels among all ranks at once: leave out zero.shard_size, or "
            "choose optimizer=adamw."
        )
    if stage.gradient.divided:
        raise ConfigError(
            "optimizer=onebit_adam compresses the momentum of each rank's whole gradient, but at this stage gradients "
            f"are divided while backward goes on (gradient: {stage.gradient}). Choose zero=stage0 or "
            "zero=stage1, or optimizer=adamw."
        )
    return limits.pop()


class Signs:
    """Compresses the shards of a unit to signs and scales, and reads them.

    A message (bytes,) is a shard's signs, 8 to a byte, then `slots` fp32 scales: of each parameter with elements in the
    shard, the root mean square of these elements (the paper's ‖x‖ / ‖sign(x)‖). Padding is read as zeros.
    """

    def __init__(self, unit: Unit, shards: Sequence[Span], device: torch.device):
        layout = unit.layout
        self.length = len(shards[0])
        self._runs: list[list[tuple[int, int]]] = []  # of each shard: where its parameters lie, within the shard
        slot_of = torch.zeros(len(shards), self.length // ALIGNMENT, dtype=torch.int64)
        for rank, shard in enumerate(shards):
            runs = []
            for index in sorted(range(len(layout.offsets)), key=layout.offsets.__getitem__):
                inside, place = layout.overlap(index, shard)
                if len(inside):
                    first = place.start - shard.start
                    slot_of[rank, first // ALIGNMENT : -(-(first + len(inside)) // ALIGNMENT)] = len(runs)
                    runs.append((first, first + len(inside)))
            self._runs.append(runs)
        self.slots = max(map(len, self._runs))
        self.bytes = self.length // 8 + 4 * self.slots
        self._slot_of = slot_of.to(device)
        self._roots = [torch.tensor([(b - a) ** 0.5 for a, b in runs], device=device) for runs in self._runs]
        self._gaps = [
            [(pad.start - shard.start, pad.stop - shard.start) for pad in pads if len(pad)]
            for shard in shards
            for pads in [[pad.clip(shard.start, shard.stop) for pad in layout.padding()]]
        ]
        self._powers = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=device)

    def write(self, values: Tensor, rank: int) -> Tensor:
        """The message (bytes,) of values (length,) that belong to the shard of `rank`."""
        message = torch.zeros(self.bytes, dtype=torch.uint8, device=values.device)
        bits = (values >= 0).view(-1, 8).to(torch.uint8)
        message[: self.length // 8] = (bits * self._powers).sum(1, dtype=torch.uint8)
        runs = self._runs[rank]
        if runs:
            norms = torch.stack(torch._foreach_norm([values[a:b] for a, b in runs]))
            self._scales(message)[: len(runs)] = norms / self._roots[rank]
        return message

    def read(self, message: Tensor, rank: int) -> Tensor:
        """The values (length,) fp32 that a message says of the shard of `rank`."""
        bits = message[: self.length // 8].unsqueeze(1).bitwise_and(self._powers).ne(0)
        scales = self._scales(message)[self._slot_of[rank]].unsqueeze(1)
        values = torch.where(bits.view(-1, ALIGNMENT), scales, -scales).view(-1)
        for start, stop in self._gaps[rank]:
            values[start:stop].zero_()
        return values

    def _scales(self, message: Tensor) -> Tensor:
        return message[self.length // 8 :].view(torch.float32)


class MomentumExchange:
    """Gives all ranks the mean of their momenta, compressed, in the place of exact gradients.

    A rank needs the whole momentum of the step before. Where the state `exp_avg` is divided it is gathered once,
    exactly, and kept: every exchange ends with all of it on every rank. With one rank nothing travels and nothing is
    compressed.
    """

    def __init__(self, storage: Storage, comm: Communicator, rules: Sequence[Any]):
        self._storage, self._comm, self._rules = storage, comm, rules
        self._units = storage.trainable if any(rule.exact_steps is not None for rule in rules) else []
        mesh = comm.mesh
        shards = {unit: [unit.layout.held(evenly(mesh), rank) for rank in mesh.ranks] for unit in self._units}
        self._signs = {unit: Signs(unit, shards[unit], storage.device) for unit in self._units}
        divided = self._units and storage.states.home("exp_avg").divided
        self._means = {
            unit: torch.zeros(unit.layout.total, device=storage.device)
            if divided
            else storage.states.of_unit("exp_avg", unit)
            for unit in self._units
        }
        self.nbytes = sum(mean.nbytes for mean in self._means.values()) if divided else 0
        self._divided, self._known = divided, False

    def forget(self) -> None:
        """The states were changed from outside: whole momenta are gathered again."""
        self._known = False

    def run(self, scalars: list[dict[str, Tensor]], scale: Tensor, ok: Tensor) -> None:
        """Bring every unit's `exp_avg` from the momentum of the step before to that of this one.

        scalars: of each hyperparameter group; scale: what gradients are multiplied with; ok: take the step.
        """
        if self._divided and not self._known:
            for unit, mean in self._means.items():
                self._comm.all_gather(mean, self._storage.states.of_unit("exp_avg", unit))
        self._known = True
        for unit in self._units:
            self._exchange(unit, self._own(unit, scalars, scale), ok)

    def _own(self, unit: Unit, scalars: list[dict[str, Tensor]], scale: Tensor) -> Tensor:
        """This rank's own momentum (layout.total,): its gradient times the ranks is one of the terms of the mean."""
        mean, factor = self._means[unit], scale * self._comm.world
        parts = []
        for span in unit.layout.spans:
            place = slice(span.start, span.stop)
            gradient = unit.gradient.values[place].float() * factor
            parts.append(self._rules[span.group].momentum_of(mean[place], gradient, scalars[span.group]))
        return torch.cat(parts)

    def _exchange(self, unit: Unit, own: Tensor, ok: Tensor) -> None:
        states, mean = self._storage.states, self._means[unit]
        if self._comm.world == 1:
            mean.copy_(torch.where(ok, own, mean))
            return
        worker, server = states.of_unit("worker_error", unit), states.of_unit("server_error", unit)
        signs, world, rank = self._signs[unit], self._comm.world, self._comm.rank
        own += worker
        messages = [signs.write(part, r) for r, part in enumerate(own.split(signs.length))]
        given = torch.cat(messages)
        lost = own - torch.cat([signs.read(message, r) for r, message in enumerate(messages)])
        taken = torch.empty_like(given)
        self._comm.all_to_all(taken, given, [signs.bytes] * world, [signs.bytes] * world)
        total = sum(signs.read(message, rank) for message in taken.view(world, -1)) / world + server
        answer = signs.write(total, rank)
        answers = torch.empty_like(given)
        self._comm.all_gather(answers, answer)
        new = torch.cat([signs.read(message, r) for r, message in enumerate(answers.view(world, -1))])
        for target, value in ((worker, lost), (server, total - signs.read(answer, rank)), (mean, new)):
            target.copy_(torch.where(ok, value, target))
        if self._divided:
            mine = unit.layout.held(states.home("exp_avg"), self._comm.mesh)
            states.of_unit("exp_avg", unit).copy_(mean[mine.start : mine.stop])
