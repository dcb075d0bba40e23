"""The engine in a loop of one's own: micro-batches, evaluation, a saved state, and whole weights at the end.

python own_loop.py
torchrun --nproc_per_node 2 own_loop.py
"""

import sys
from pathlib import Path

import torch
from torch import nn

import zerokit

STEPS, ACCUMULATION, SAVED = int(sys.argv[1]) if len(sys.argv) > 1 else 50, 2, Path("own_loop")

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 4))
teacher = nn.Linear(32, 4)
engine = zerokit.initialize(model, {
    "zero": {"stage": 3, "min_unit": 0},
    "precision": "bf16",
    "optimizer": {"name": "adamw", "lr": 3e-3},
    "train": {"clip_norm": 1.0},
    "batch": {"accumulation": ACCUMULATION},
})  # fmt: skip
first = 0
if SAVED.exists():
    first = engine.load(SAVED)["step"]  # also with another stage or number of ranks
torch.manual_seed(first * 1000 + engine.comm.rank)  # every rank has samples of its own


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (count, 32), and the class (count,) that a fixed linear map gives them."""
    x = torch.randn(count, 32)
    return x.to(engine.device), teacher(x).argmax(-1).to(engine.device)


for _ in range(first, STEPS):
    for _ in range(ACCUMULATION):  # micro-batches
        x, y = batch(32)
        loss = nn.functional.cross_entropy(engine(x).float(), y)
        engine.backward(loss)
    engine.step()

with torch.no_grad():
    x, y = batch(512)
    accuracy = (engine(x).argmax(-1) == y).float().mean().item()
weights = engine.full_state_dict()  # whole fp32 weights; every rank calls it
if not SAVED.exists():
    engine.save(SAVED, user={"step": STEPS})
if engine.comm.rank == 0:
    print(f"steps {first} to {STEPS}: loss {loss.item():.3f}, accuracy {accuracy:.1%}, {len(weights)} tensors")
