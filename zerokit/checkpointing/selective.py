"""Keep the outputs of matrix products and attention, recompute the rest."""

from zerokit.config.registry import register

register("checkpointing", "selective", builder="zerokit.checkpointing._recompute:build_selective")
