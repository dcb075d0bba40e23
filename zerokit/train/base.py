"""What an adapter was trained beside: a digest, so that it is put beside nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import xxhash
from torch import nn

from zerokit.config.schema import Config
from zerokit.model._hf.folder import CONFIG, weight_files

CHUNK = 2**24  # bytes read at a time


def base_digest(cfg: Config, model: nn.Module) -> str:
    """128 bits in hexadecimal digits: of the files that the model's weights were read from, or of what they were drawn
    from."""
    digest = xxhash.xxh3_128()
    folder = getattr(model, "weights_folder", None)
    if folder is None:
        values = {**cfg.to_dict()["model"], "seed": cfg.train.seed}
        digest.update(json.dumps(values, sort_keys=True, default=str).encode())
        return digest.hexdigest()
    for file in (folder / CONFIG, *weight_files(folder)):
        _add(digest, file)
    return digest.hexdigest()


def _add(digest: xxhash.xxh3_128, file: Path) -> None:
    with file.open("rb", buffering=0) as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
