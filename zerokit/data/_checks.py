"""Checks of options that several data sources share; imports no torch."""


def check_tokens(seq_len: int, held_out_percent: int) -> None:
    """Raises ValueError for options that no text can be cut by."""
    if seq_len < 1:
        raise ValueError(f"seq_len: expected at least 1 token per sample; got {seq_len}.")
    if not 1 <= held_out_percent <= 50:
        raise ValueError(f"held_out_percent: expected 1 to 50; got {held_out_percent}.")
