"""Rules between groups, and between the configuration and this machine. Imports no torch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from zerokit.config.batch import resolve_batch
from zerokit.config.data_info import TOKENS
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice
from zerokit.config.schedule import build_schedule
from zerokit.config.schema import Config, LaunchConfig

CPU_PROCESSES = 2
"""Worker processes on a CPU by default, so that the state is really divided."""

LANGUAGE_MODELS = ("gpt", "llama")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""What a model on Hugging Face's Hub is called: OWNER/NAME."""
DOCUMENTS = ("text", "jsonl", "chat")
DATA = ("stdlib", "synthetic", *DOCUMENTS)


def check(config: Config) -> None:
    """Refuse what cannot run.

    Raises:
        ConfigError: naming the keys that do not fit each other.
    """
    _check_batch(config)
    _check_stage(config)
    _check_schedule(config)
    _check_huggingface(config)  # before the data, whose tokenizer is that of the model unless another is given
    _check_data(config)
    _check_profile(config)
    _check_graph(config)
    _check_tracker(config)


def _check_batch(config: Config) -> None:
    # Where the number of processes is not known yet, the launcher checks again.
    world = known_world(config.launch)
    if world is not None:
        resolve_batch(config.batch, world)
    elif config.batch.global_ is None and config.batch.micro is None:
        resolve_batch(config.batch, 1)


def allowed_stages(config: Config) -> Sequence[int] | None:
    """The stages that the optimizer works at; None: all."""
    return getattr(config.optimizer.options, "stages", None)


def _check_stage(config: Config) -> None:
    allowed, stage = allowed_stages(config), config.zero.stage
    if allowed is not None and not config.zero.auto and stage not in allowed:
        choices = " or ".join(f"zero=stage{number}" for number in allowed)
        raise ConfigError(
            f"optimizer={config.optimizer.name} does not work at zero.stage={stage}, where gradients are divided among "
            f"the ranks. Choose {choices}, or optimizer=adamw."
        )


def _check_schedule(config: Config) -> None:
    try:
        peak_lr = getattr(config.optimizer.options, "lr", 1.0)
        build_schedule(config, peak_lr)
    except ValueError as error:
        about_length = f" See train.steps={config.train.steps}." if "step" in str(error) else ""
        raise ConfigError(f"{error}{about_length}") from error


def _check_tracker(config: Config) -> None:
    if config.tracker.name == "tensorboard" and find_spec("tensorboard") is None:
        raise ConfigError("tracker=tensorboard needs a package: pip install 'zerokit[tensorboard]'.")


def _check_profile(config: Config) -> None:
    profile, steps = config.profile, config.train.steps
    if profile.steps and profile.after + profile.steps > steps:
        raise ConfigError(
            f"profile.after + profile.steps = {profile.after} + {profile.steps} exceeds train.steps={steps}: "
            "trace fewer or earlier steps, or train longer."
        )


def is_replayable(config: Config) -> bool:
    """Whether every step finds what it uses at the same addresses, as `train.cuda_graph` needs."""
    return config.checkpointing.name != "cpu"


def _check_graph(config: Config) -> None:
    if config.train.cuda_graph and not is_replayable(config):
        raise ConfigError(
            "train.cuda_graph=true replays copies to the addresses of one step, and checkpointing=cpu takes other host "
            "memory in every step. Set train.cuda_graph=false, or choose checkpointing=full or selective."
        )
    if config.train.cuda_graph and hasattr(config.optimizer.options, "freeze_step"):
        raise ConfigError(
            f"train.cuda_graph=true replays one recorded step, and those of optimizer={config.optimizer.name} change "
            "after its warm-up. Set train.cuda_graph=false, or choose another optimizer."
        )


def _check_data(config: Config) -> None:
    """Check zerokit's own models against its own data; what others register is theirs to check."""
    model, data = config.model, config.data
    if data.name in DOCUMENTS:
        data.options.check_files()
    if data.name in DATA:
        check_mean(config.train.loss_mean, _task(data))
    if model.name not in (*LANGUAGE_MODELS, "mlp") or data.name not in DATA:
        return
    task = _task(data)
    if model.name == "mlp" and task == "tokens":
        raise ConfigError(
            f"model=mlp does not take the tokens of data={data.name}. "
            "Choose a language model such as model=gpt_nano, or data=synthetic data.task=regression."
        )
    if model.name in LANGUAGE_MODELS and task != "tokens":
        raise ConfigError(
            f"model.name={model.name} predicts the next token, and data={data.name} is for {task}. Choose other data, "
            "or another model."
        )
    if model.name in LANGUAGE_MODELS:
        _check_tokens(config)


def _task(data: Choice) -> str:
    """What zerokit's own data are for."""
    if getattr(data.options, "label", None) is not None:
        return "classification"
    if getattr(data.options, "target", None) is not None:
        return "seq2seq"
    return "masked" if getattr(data.options, "mask_percent", 0) else getattr(data.options, "task", "tokens")


def _check_huggingface(config: Config) -> None:
    """Check where a model of transformers is to come from, as far as this host alone can tell."""
    if config.model.name != "hf":
        return
    if find_spec("transformers") is None:
        raise ConfigError("model=hf needs a package: pip install 'zerokit[hf]'.")
    path = Path(config.model.options.path).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        raise ConfigError(f"model.path={path}: the folder has no config.json; expected a model of transformers.")
    if not path.is_dir() and not HUB_NAME.fullmatch(config.model.options.path):
        raise ConfigError(f"model.path={path}: there is no such folder. Expected one with config.json.")


def check_mean(mean: str | None, task: str) -> None:
    """Refuse a mean over tokens of data that have none.

    Raises:
        ConfigError: naming the key and the data's task.
    """
    if mean == "tokens" and task not in TOKENS:
        raise ConfigError(
            f"train.loss_mean=tokens needs targets that are tokens, and this is data for {task}. Choose "
            "train.loss_mean=samples, or null."
        )


def _check_tokens(config: Config) -> None:
    model, data = config.model.options, config.data.options
    vocabulary = getattr(data, "vocab_size", 256)
    if getattr(data, "tokenizer", "bytes") != "bytes":
        vocabulary = 0  # which the tokenizer says when it is read
    if model.context is not None and model.context < data.seq_len:
        raise ConfigError(f"model.context={model.context} is shorter than data.seq_len={data.seq_len}.")
    if model.vocab_size is not None and model.vocab_size < vocabulary:
        raise ConfigError(f"model.vocab_size={model.vocab_size} is below the {vocabulary} tokens of the data.")


def known_world(launch: LaunchConfig) -> int | None:
    """Return the number of processes where it is certain without asking torch, else None.

    torchrun and Slurm fix it; so does `launch.nproc`; a CPU gets two. The number of usable GPUs is torch's to say.
    """
    outside = outside_world()
    if outside is not None:
        return outside
    if launch.nproc is not None:
        return launch.nproc
    return CPU_PROCESSES if launch.device == "cpu" or not may_have_gpu() else None


def outside_world() -> int | None:
    """Return the number of processes that torchrun or srun started, or None if neither did."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return tasks if tasks > 1 else None


def may_have_gpu() -> bool:
    """Whether there is any sign of a GPU that this process may use."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    devices = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
    return any(Path(device).exists() for device in devices) or shutil.which("nvidia-smi") is not None
