"""`deepspeed.pipe`: there are no pipeline stages."""

from zerokit.compat.deepspeed.absent import absent

_INSTEAD = "there is data parallelism only; stage 3 divides the weights of an ordinary module"
PipelineModule, LayerSpec, TiedLayerSpec = (
    absent(name, _INSTEAD) for name in ("PipelineModule", "LayerSpec", "TiedLayerSpec")
)
__all__ = ["LayerSpec", "PipelineModule", "TiedLayerSpec"]
