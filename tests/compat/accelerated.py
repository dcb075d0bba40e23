"""A script on accelerate, with DeepSpeed's plugin and without; `accelerated.py FOLDER` prints JSON."""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

AUTO = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "train_batch_size")
FROM_JSON = dict.fromkeys(AUTO, "auto") | {"zero_optimization": {"stage": 3}}
USUAL = {"gradient_clipping": 1.0, "gradient_accumulation_steps": 2}
PLUGINS = {"stage 2": {"zero_stage": 2}, "stage 3": {"zero_stage": 3}, "json": {"hf_ds_config": FROM_JSON}}


def train(folder: str, plugin: DeepSpeedPlugin | None) -> dict:
    """Losses of two epochs, whether the second repeats itself after load_state, and a sum of the weights."""
    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=2, **({} if plugin is None else {"deepspeed_plugin": plugin})
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    def epoch() -> list[float]:
        losses = []
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = (model(inputs) - targets).square().mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(float(accelerator.reduce(loss.detach(), "mean")))
        return losses

    first = epoch()
    accelerator.save_state(f"{folder}/state")
    second = epoch()
    accelerator.load_state(f"{folder}/state")
    again = epoch()
    weights = accelerator.get_state_dict(model)
    accelerator.save_model(model, f"{folder}/model")
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    total = sum(float(value.double().sum()) for value in (weights or {}).values())
    return {"losses": first + second, "again": again == second, "total": total}


if __name__ == "__main__":
    made = {"plain": train(f"{sys.argv[1]}/plain", None)}
    for name, options in PLUGINS.items():
        made[name] = train(f"{sys.argv[1]}/{name}", DeepSpeedPlugin(**USUAL, **options))
    if dist.get_rank() == 0:
        print(json.dumps(made))
