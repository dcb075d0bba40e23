"""`zero_to_fp32`: the whole fp32 weights of a checkpoint that this engine saved.

As a script: `python -m zerokit.compat.deepspeed.utils.zero_to_fp32 CHECKPOINT_DIR OUTPUT_DIR [--tag TAG]` writes
OUTPUT_DIR/pytorch_model.bin.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from zerokit.compat.deepspeed.states import fp32_weights


def get_fp32_state_dict_from_zero_checkpoint(checkpoint_dir: str | Path, tag: str | None = None,
                                             exclude_frozen_parameters: bool = False,
                                             lazy_mode: bool = False) -> dict[str, Tensor]:  # fmt: skip
    """The whole fp32 weights by every name of theirs, on the CPU.

    Raises:
        FileNotFoundError: there is no such checkpoint. ValueError: frozen weights are to be left out, and nothing in a
            state says which these are.
    """
    if exclude_frozen_parameters:
        raise ValueError(
            "exclude_frozen_parameters: a state does not say which weights are frozen; take them out by name."
        )
    return fp32_weights(checkpoint_dir, tag)


def convert_zero_checkpoint_to_fp32_state_dict(checkpoint_dir: str | Path, output_dir: str | Path,
                                               max_shard_size: str = "5GB", safe_serialization: bool = False,
                                               tag: str | None = None,
                                               exclude_frozen_parameters: bool = False) -> None:  # fmt: skip
    """Write the weights as one file, `model.safetensors` or `pytorch_model.bin`, into the folder `output_dir`."""
    weights = get_fp32_state_dict_from_zero_checkpoint(checkpoint_dir, tag, exclude_frozen_parameters)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    name = "model.safetensors" if safe_serialization else "pytorch_model.bin"
    draft = folder / f"{name}.new"
    if safe_serialization:
        from safetensors.torch import save_file

        save_file({key: value.clone().contiguous() for key, value in weights.items()}, draft, {"format": "pt"})
    else:
        torch.save(weights, draft)
    os.replace(draft, folder / name)


def load_state_dict_from_zero_checkpoint(model: nn.Module, checkpoint_dir: str | Path,
                                         tag: str | None = None) -> nn.Module:  # fmt: skip
    """Load the weights into a model that no engine has, on the CPU."""
    model = model.cpu()
    model.load_state_dict(get_fp32_state_dict_from_zero_checkpoint(checkpoint_dir, tag), strict=False)
    return model


def main(words: list[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(prog="zero_to_fp32", description="the whole fp32 weights of a checkpoint")
    parser.add_argument("checkpoint_dir", help="the folder that `latest` lies in")
    parser.add_argument("output_dir", help="where pytorch_model.bin, or model.safetensors, is written")
    parser.add_argument("-t", "--tag", help="the checkpoint's name; by default the one in `latest`")
    parser.add_argument("--safe_serialization", action="store_true", help="write safetensors")
    given = parser.parse_args(words)
    try:
        convert_zero_checkpoint_to_fp32_state_dict(
            given.checkpoint_dir, given.output_dir, safe_serialization=given.safe_serialization, tag=given.tag
        )
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
