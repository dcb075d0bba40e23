"""First values of a model on the meta device, module by module, as its architecture draws them."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def reset_module(model: nn.Module, name: str) -> None:
    """Set what the module `name` owns as the model would, whole, have set it.

    `transformers` calls `_init_weights` of the innermost model that contains it with a module, then with each module
    around it, which may set what lies in it. So does this, while all that others own is on the meta device, where
    nothing is written. Modules that others have put in (`resets_itself`) know better.
    """
    chain = [(model, model)]
    for step in name.split(".") if name else ():
        owner, outer = chain[-1]
        module = getattr(outer, step)
        chain.append((module if hasattr(module, "_init_weights") else owner, module))
    if getattr(chain[-1][1], "resets_itself", False):
        chain[-1][1].reset_parameters()
        return
    for owner, module in reversed(chain):
        owner._init_weights(module)
