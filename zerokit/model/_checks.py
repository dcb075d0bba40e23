"""Checks of options that the language models share; imports no torch."""


def check_decoder(options) -> None:
    """Raises ValueError for sizes that no decoder can have."""
    for key in ("vocab_size", "context", "dim", "layers", "heads", "hidden", "loss_chunk"):
        size = getattr(options, key)
        if size is not None and size < 1:
            raise ValueError(f"{key}: expected at least 1; got {size}.")
    if options.dim % options.heads:
        raise ValueError(f"heads: expected a divisor of dim={options.dim}; got {options.heads}.")
    check_dropout(options.dropout)
    if options.init_std <= 0:
        raise ValueError(f"init_std: expected more than 0; got {options.init_std}.")


def check_dropout(probability: float) -> None:
    """Raises ValueError for what is no probability below 1."""
    if not 0 <= probability < 1:
        raise ValueError(f"dropout: expected at least 0 and less than 1; got {probability}.")
