"""`deepspeed.moe.layer`: experts are modules of the model, whose weights stage 3 divides."""

from zerokit.compat.deepspeed.absent import absent

MoE = absent("MoE", "write the experts as modules of the model; stage 3 divides their weights")
__all__ = ["MoE"]
