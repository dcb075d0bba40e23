"""Means over target tokens on a GPU: also where a step is recorded, and without a wait of the host."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.process import forked, needs_gpu
from tests.train.masked import GLOBAL, KINDS, composed, masked_trainer, plain_training, plain_twin, variant
from zerokit.config.schema import BatchConfig

pytestmark = needs_gpu


@pytest.fixture(autouse=True, scope="module")
def config_of_all_tests():
    return composed()


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@forked
def test_every_step_counts_its_own_targets(kind, recorded):
    batch = BatchConfig(global_=GLOBAL, accumulation=4)
    cfg = variant(batch=batch, cuda_graph=recorded, compile=False, steps=8)
    trainer = masked_trainer(kind, cfg, "cuda")
    wanted = plain_training(plain_twin(trainer, cfg), trainer.loader.source, steps=8)
    got = [(metrics["train/loss"], metrics["train/grad_norm"]) for _, metrics in trainer.fit()]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=2e-3, atol=1e-4)


@forked
def test_no_step_waits_for_the_gpu():
    trainer = masked_trainer("micro-batches", variant(compile=False, steps=9, log_every=100), "cuda")
    steps = trainer.fit()
    next(steps), next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps), next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
