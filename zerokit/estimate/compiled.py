"""Compiled regions: what torch.compile's pipeline makes of a module, up to code generation.

Dynamo, AOTAutograd and Inductor's passes and partitioner run as they do on a GPU and decide what is saved for backward.
Only the kernels are not generated; which buffers they would have, region.py takes from one rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from zerokit.estimate.region import Region


class Backend:
    """A backend of torch.compile whose regions only say what they would need. One for all models of a process, so
    that equal blocks are compiled once."""

    def __init__(self, tracker_of: Callable[[], Any]):
        self._tracker_of = tracker_of

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable:
        from torch._inductor.compile_fx import compile_fx

        # On the meta device constant folding would leave nothing; patterns only matter where attention is spelled out.
        patches = {"joint_graph_constant_folding": False, "pattern_matcher": False}
        return compile_fx(module, inputs, inner_compile=self._region, config_patches=patches)

    def _region(self, module: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Callable:
        # Of a backward graph all arguments are called static, but what was saved for it dies in it.
        static = () if options.get("is_backward") else options.get("static_input_idxs", ())
        region = Region(module.graph, static)

        def run(args: list[Any]) -> list[Any]:
            return region.run(args, self._tracker_of())

        run._boxed_call = True
        return run
