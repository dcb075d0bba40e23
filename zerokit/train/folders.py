"""What `transformers` and `peft` expect in the folder of a trained model, beside its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zerokit.config.data_info import DataInfo
from zerokit.config.errors import ConfigError
from zerokit.config.parse import parse_fields
from zerokit.model._hf.build import build
from zerokit.model._hf.folder import local_folder
from zerokit.model._hf.packages import load_package
from zerokit.model.hf import HuggingFaceOptions

BESIDE = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja",
)  # fmt: skip
"""Files that belong to a model and that training does not change."""
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
"""Output layers of classifications, one row a class."""
TASK_TYPES = {"causal_lm": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classification": "SEQ_CLS"}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Described:
    """names: ours by theirs. stem: of the files of tensors. described: what their configuration says, in the file
    `config`. files: others, by name."""

    names: dict[str, str]
    described: dict[str, Any]
    stem: str = "model"
    config: str = "config.json"
    files: dict[str, bytes] = field(default_factory=dict)


def describe_model(model: Mapping[str, Any], shapes: Shapes, classes: Sequence[str]) -> Described:
    """The folder of a model of `model=hf`, whose options are `model`. classes: their names, if it is to tell classes
    apart and they have names."""
    given = {key: value for key, value in model.items() if key != "name"}
    options = replace(parse_fields(HuggingFaceOptions, given, "model"), init="random")
    info = None
    if options.task == "classification":
        count = next((shapes[name][0] for name in HEADS if name in shapes), None)
        if count is None:
            raise ConfigError(f"model.path={options.path}: none of {', '.join(HEADS)} tells how many classes it has.")
        info = DataInfo("classification", None, None, None, count, "", "", None, classes=tuple(classes))
    made = build(options, info)
    described = {**made.config.to_diff_dict(), "architectures": [type(made).__name__]}
    folder = local_folder(options.path)
    files = {name: (folder / name).read_bytes() for name in BESIDE if (folder / name).is_file()}
    return Described({name: name for name in shapes}, described, files=files)


def describe_adapter(model: Mapping[str, Any], adapter: Mapping[str, Any], shapes: Shapes) -> Described:
    """The folder of an adapter of `adapter=lora` with these options, beside a model with the options `model`."""
    peft = load_package("peft", "adapter=lora")
    names = {f"base_model.model.{name.replace('.default.', '.')}": name for name in shapes if ".lora_" in name}
    layers = {name.partition(".lora_")[0] for name in names.values()}
    config = peft.LoraConfig(
        r=adapter["r"],
        lora_alpha=adapter["alpha"],
        lora_dropout=adapter["dropout"],
        target_modules=sorted(layers),
        bias="none",
        task_type=TASK_TYPES.get(model.get("task")),
        base_model_name_or_path=_whole(model.get("path")),
        inference_mode=True,
    )
    described = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return Described(names, described, "adapter_model", "adapter_config.json")


def _whole(path: str | None) -> str | None:
    """A folder's path from the root, so that it is found from elsewhere; a name on the Hub as it is."""
    return str(Path(path).expanduser().resolve()) if path and Path(path).expanduser().is_dir() else path
