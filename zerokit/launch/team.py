"""Which processes take part in an attempt: all at first, and after failures perhaps without one that keeps failing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zerokit.config.batch import resolve_batch
from zerokit.config.errors import ConfigError
from zerokit.config.schema import BatchConfig, Config


@dataclass(frozen=True)
class Team:
    """The processes of one attempt. members[r]: the place of rank r among the processes of the first attempt, which is
    also its GPU. failed: the place of the rank that made the last attempt fail."""

    config: Config
    members: tuple[int, ...]
    failed: int | None = None

    def after(self, rank: int) -> Team:
        """The team that goes on when `rank` has failed: without it if it failed in the attempt before as well, and if
        enough are left among whom the same batch can be divided."""
        place = self.members[rank]
        fewest = self.config.launch.min_ranks
        if fewest is None or place != self.failed:
            return replace(self, failed=place)
        left = tuple(member for member in self.members if member != place)
        for ranks in range(len(left), fewest - 1, -1):
            config = self._with_ranks(ranks)
            if config is not None:
                return Team(config, left[:ranks])
        return self

    def _with_ranks(self, ranks: int) -> Config | None:
        """The config for fewer ranks: as many samples per step and per forward pass; None if they do not divide."""
        batch = resolve_batch(self.config.batch, len(self.members))
        fixed = BatchConfig(global_=batch.global_, micro=batch.micro)
        try:
            resolve_batch(fixed, ranks)
        except ConfigError:
            return None
        return replace(self.config, batch=fixed)

    def environment(self) -> dict[str, str]:
        """What the workers' environment needs: the GPUs of the members, once some are left out."""
        if self.members == tuple(range(len(self.members))):
            return {}
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, self.members))}
