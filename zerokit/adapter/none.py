"""No adapter: the model itself is trained."""

from zerokit.config.registry import NoOptions, register


@register("adapter", "none")
def build(options: NoOptions, model):
    """The model as it is."""
    return model
