"""`deepspeed.runtime.zero`: ZeRO's classes under the paths that libraries import."""

from zerokit.compat.deepspeed.zero import (
    GatheredParameters,
    Init,
    register_external_parameter,
    unregister_external_parameter,
)

__all__ = ["GatheredParameters", "Init", "register_external_parameter", "unregister_external_parameter"]
