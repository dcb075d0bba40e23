"""The typed configuration of a run. `Config.from_dict` checks every key and value, `Config.to_dict` is its inverse."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from zerokit.config import registry
from zerokit.config.environment import UNRESOLVED
from zerokit.config.errors import ConfigError
from zerokit.config.parse import parse_fields, to_plain, unknown_key
from zerokit.config.registry import Choice


@dataclass
class ZeroConfig:
    """How the state of the training is divided among the processes."""

    stage: Literal[0, 1, 2, 3] = 2
    """0 divides nothing, 1 the optimizer state, 2 also the gradients, 3 also the parameters."""
    auto: bool = False
    """Take the fastest stage, checkpointing and micro-batch that are predicted to fit, at the same global batch; a
    batch.micro that is given is kept. What runs out of memory all the same is followed by the next."""
    units: list[str] = field(default_factory=list)
    """Modules gathered and reduced together: class names or name patterns such as `blocks.*`; empty means automatic."""
    min_unit: int = 1_000_000
    """Parameters of a module below which it is not gathered on its own but stays with what is left over."""
    prefetch: int = 1
    """Units gathered ahead of their use (stage 3)."""
    transport: Literal["auto", "collective", "peer"] = "auto"
    """How shards travel: `collective` by NCCL or gloo, `peer` by the copy engines between GPUs of one host, with sums
    in the format in which gradients are stored; auto takes peer where it is possible."""
    shard_size: int | Literal["all", "host"] = "all"
    """Processes among which the state is divided: all of them, or groups that each have the whole of it (hybrid
    sharding), of so many processes or those of one `host`."""
    states: Literal["group", "all"] = "group"
    """With groups: each of them has all optimizer states and master weights (as MiCS and HSDP), or these are divided
    among all processes (as hpZ), for less memory and a gather of weights between groups in every step."""
    offload: Literal["none", "states"] = "none"
    """What lies in the host's memory, page-locked: `states` of the optimizer and what completes weights to the
    master's. They pass through the GPU piece by piece, behind the next forward pass, and the weights are the same, bit
    for bit."""
    offload_keep_gib: float = 0.0
    """GiB of them that stay on the GPU of each process, those that the forward pass needs first."""
    guard: Literal["auto", "always"] = "auto"
    """How backward is followed (stage 3). `always` sees every use of a weight, and weights that are not there read NaN;
    `auto` does so on a CPU, and on a GPU until two steps have not needed it: from then on a use that could not be
    followed is an error."""

    def __post_init__(self) -> None:
        _at_least(0, prefetch=self.prefetch, min_unit=self.min_unit, offload_keep_gib=self.offload_keep_gib)
        if self.shard_size != "all" and self.stage == 0:
            raise ValueError("shard_size: zero=stage0 divides nothing; choose zero=stage1, stage2 or stage3.")
        if isinstance(self.shard_size, int):
            _at_least(1, shard_size=self.shard_size)


@dataclass
class TrainConfig:
    """The training loop."""

    steps: int = 400
    """Optimizer steps of the run."""
    seed: int = 0
    """Seed of the initial weights, the order of the data and dropout."""
    log_every: int | None = None
    """Steps between two lines of metrics; null: eighty lines a run, and one at least every 100 steps."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradients; null does not clip."""
    loss_mean: Literal["tokens", "samples"] | None = None
    """What the loss is the mean over: `tokens`, all target tokens of a step alike, or `samples`, the means of its micro
    batches; null takes tokens where the data has them."""
    compile: bool | None = None
    """Whether the blocks are compiled by torch.compile; null means on a GPU only."""
    compile_backend: str = "inductor"
    """Backend of torch.compile."""
    eval_every: int | None = None
    """Steps between two evaluations on held-out data; null: ten a run, every 10 steps at the most; 0 evaluates only at
    the end."""
    eval_samples: int = 64
    """Held-out samples in one evaluation over all processes, or all if there are fewer; 0 never evaluates."""
    eval_batches: int | None = None
    """The same in micro batches per process, in place of `eval_samples`."""
    cuda_graph: bool = False
    """Whether whole steps are recorded as a CUDA graph and replayed (GPU only): faster where batches are small."""
    deterministic: bool = False
    """Whether only deterministic algorithms are used (slower on a GPU)."""
    sample_tokens: int = 200
    """Tokens of text generated at the end (language models); 0 generates none."""
    peak_tflops: float | None = None
    """TFLOP/s of one device for perf/mfu_pct; null takes the datasheet's figure for the GPU and the compute format."""
    freeze: list[str] = field(default_factory=list)
    """Parameters that stay as they are, by patterns of their names such as `*embed*` or `model.layers.[0-3].*`."""
    unused_parameters: Literal["skip", "zero"] = "skip"
    """What happens to parameters that no process used in a step: `skip` leaves them and their optimizer states alone,
    as PyTorch does; `zero` updates them with gradients of zero."""
    max_skips: int = 20
    """Successive steps that may be skipped for non-finite gradients before the run fails."""

    def __post_init__(self) -> None:
        _at_least(1, steps=self.steps, log_every=self.log_steps, max_skips=self.max_skips)
        _at_least(
            0,
            seed=self.seed,
            eval_every=self.eval_steps,
            eval_samples=self.eval_samples,
            eval_batches=self.eval_batches or 0,
            sample_tokens=self.sample_tokens,
        )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, or null not to clip; got {self.clip_norm}.")
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise ValueError(f"peak_tflops must be above 0, got {self.peak_tflops}.")

    @property
    def log_steps(self) -> int:
        """Steps between two lines of metrics."""
        return min(max(1, self.steps // 80), 100) if self.log_every is None else self.log_every

    @property
    def eval_steps(self) -> int:
        """Steps between two evaluations; 0: none but at the end."""
        return max(10, -(-self.steps // 10)) if self.eval_every is None else self.eval_every


@dataclass
class BatchConfig:
    """Samples per step. global = micro * accumulation * processes; give any part that fixes the rest."""

    global_: int | None = None
    """Samples per optimizer step over all processes."""
    micro: int | None = None
    """Samples per forward pass of one process."""
    accumulation: int | None = None
    """Forward and backward passes of one process per optimizer step."""

    def __post_init__(self) -> None:
        given = {"global": self.global_, "micro": self.micro, "accumulation": self.accumulation}
        _at_least(1, **{key: value for key, value in given.items() if value is not None})


@dataclass
class LaunchConfig:
    """The worker processes. Under torchrun or Slurm their number is given from outside."""

    nproc: int | None = None
    """Processes on this host; null means one per visible GPU, or 2 on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes the GPUs if there are any."""
    threads: int | None = None
    """CPU threads per process; null shares the cores among the processes."""
    timeout_s: float = 600.0
    """Seconds that a process waits for the others in a collective before the run fails."""
    step_timeout_s: float | None = 120.0
    """Seconds that a process may take for one step before the run counts as hung, every process writes its stacks into
    `logs/` and the run fails; null waits for ever."""
    start_timeout_s: float | None = 1800.0
    """The same for start-up with the first step, for an evaluation and for the end of a run."""
    save_timeout_s: float | None = 1800.0
    """The same while state is saved."""
    max_restarts: int = 0
    """Times that all workers are started again after a failure, from the newest saved state."""
    min_ranks: int | None = None
    """Fewest processes that a restart may go on with: one that failed twice in a row, or whose GPU is gone, is left out
    and the batch divided anew. null always takes all."""
    save_signals: list[Literal["USR1", "USR2", "XCPU"]] = field(default_factory=lambda: ["USR1", "USR2"])
    """Signals that save the state and end the run, as SIGTERM, SIGINT and SIGHUP do in any case; for schedulers that
    announce a time limit or a pre-emption (`sbatch --signal=USR1@120`, submitit's USR2)."""

    def __post_init__(self) -> None:
        given = {"nproc": self.nproc, "threads": self.threads, "min_ranks": self.min_ranks}
        _at_least(1, **{key: value for key, value in given.items() if value is not None})
        _at_least(0, max_restarts=self.max_restarts)
        for key in ("timeout_s", "step_timeout_s", "start_timeout_s", "save_timeout_s"):
            seconds = getattr(self, key)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{key} must be above 0, got {seconds}.")


@dataclass
class StateConfig:
    """Saving and resuming."""

    every: int = 0
    """Steps between two saved states, and one at the end; 0 saves none unless asked by a signal."""
    final: bool = True
    """Whether a run that has finished leaves its weights in `model`, for other programs."""
    final_dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Format of these weights."""
    best: str | None = None
    """Metric of an evaluation, such as `eval/loss`, of whose best value the state is saved too, and kept."""
    best_mode: Literal["min", "max"] = "min"
    """Whether a smaller or a larger value of it is the better one."""
    keep: int = 3
    """Saved states that are kept; older ones are removed once a newer one has been read back."""
    resume: str = "auto"
    """`auto` goes on from the newest sound state in the output folder, if there is one; `never` refuses a folder that
    has one; or the path of a saved state or of another run's folder."""
    asynchronous: bool = True
    """Whether states are written beside the training, from a copy in the host's memory."""
    on_error: Literal["fail", "continue"] = "fail"
    """What a state that cannot be written does to the run, or on a full disk its metrics; `continue` warns and trains
    on."""
    verify_every: int = 0
    """Steps between two comparisons of what all ranks must hold alike (weights at stages 0 to 2, at 0 all states); a
    rank that differs ends the run and is named. 0 compares nothing."""
    allow_changed: list[str] = field(default_factory=list)
    """Keys such as `optimizer.lr`, or whole groups such as `data`, that may differ from those of the state to go on
    from."""

    def __post_init__(self) -> None:
        _at_least(0, every=self.every, verify_every=self.verify_every)
        _at_least(1, keep=self.keep)


@dataclass
class ProfileConfig:
    """A trace of a few steps on every rank, in the folder `profile` of the run. `debug=profile` turns it on."""

    steps: int = 0
    """Steps that are traced; 0 traces none."""
    after: int = 10
    """Steps before the first traced one, in which kernels are compiled and caches filled."""
    memory: bool = True
    """Whether the allocations of the traced steps are recorded as a memory snapshot (GPU only)."""
    shapes: bool = False
    """Whether the shapes of the operators' inputs are recorded: a larger trace and slower steps."""
    stacks: bool = False
    """Whether the Python stack of each operator is recorded: a much larger trace and slower steps."""

    def __post_init__(self) -> None:
        _at_least(0, steps=self.steps)
        _at_least(1, after=self.after)


@dataclass
class EstimateConfig:
    """Predictions: `zerokit estimate`, `zero=auto`, and the one that every run logs beside what it measures."""

    hardware: str | None = None
    """Entry of the hardware table (h200_nvlink, h100_ib400, a100, cpu), or `measure` for this machine; null takes the
    entry that is most like this machine, and predicts no times."""
    world: list[int] = field(default_factory=list)
    """Numbers of processes to compare; empty means that of the run."""
    memory_gib: float | None = None
    """Memory of a device that a run may take, in GiB; null: all that the hardware has."""
    json: str | None = None
    """File for the figures of `zerokit estimate`."""
    run: bool = True
    """Whether every run predicts its memory before it starts."""

    def __post_init__(self) -> None:
        for world in self.world:
            _at_least(1, world=world)
        if self.memory_gib is not None and not self.memory_gib > 0:
            raise ValueError(f"memory_gib must be above 0, got {self.memory_gib}.")


@dataclass
class RunConfig:
    """How trackers name the run."""

    name: str | None = None
    """Name of the run; null takes the name of its output folder."""
    group: str | None = None
    """Group of runs that belong together, such as a sweep."""
    tags: list[str] = field(default_factory=list)
    """Words to find the run by."""


@dataclass
class SweepConfig:
    """How the cells of a sweep (-m) are run."""

    parallel: int = 1
    """Cells that run at the same time, each on its own share of the GPUs, or of the cores."""
    dry_run: bool = False
    """Whether the cells are only listed, with the memory that they are predicted to take."""
    force: bool = False
    """Whether cells that are predicted not to fit are run all the same."""
    resume: Literal["auto", "never"] = "auto"
    """`auto` skips the cells that have finished before and goes on with half-done ones, `never` starts all afresh."""
    metric: str = "loss"
    """Key of summary.json that a searching sweeper optimises, such as `loss` or `tokens_per_sec`."""

    def __post_init__(self) -> None:
        _at_least(1, parallel=self.parallel)


@dataclass
class Config:
    """Everything a run depends on."""

    zero: ZeroConfig
    precision: Choice
    optimizer: Choice
    scheduler: Choice
    checkpointing: Choice
    model: Choice
    adapter: Choice
    data: Choice
    tracker: Choice
    callbacks: tuple[Choice, ...]
    launch: LaunchConfig
    train: TrainConfig
    batch: BatchConfig
    state: StateConfig
    profile: ProfileConfig
    estimate: EstimateConfig
    run: RunConfig
    sweep: SweepConfig
    unresolved: dict[str, Any] = field(default_factory=dict)
    """What was written as `${oc.env:NAME}`, by key, such as `{"run.name": "${oc.env:USER}"}`: files and trackers get
    this in place of the value, which may be a secret."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Build the configuration from plain values; sections that are missing take their defaults.

        Raises:
            ConfigError: if a key is unknown, a value has a wrong type or is not allowed, or a group has no choice.
        """
        values = dict(values)
        unresolved = values.pop(UNRESOLVED, None) or {}
        sections = cls.section_names()
        for key in values:
            if key not in sections:
                raise unknown_key("", key, sections)
        return cls(**{section: _section(section, values.get(section)) for section in sections}, unresolved=unresolved)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain dicts, lists and scalars."""
        values = {name: _plain(getattr(self, name)) for name in self.section_names()}
        return values | ({UNRESOLVED: self.unresolved} if self.unresolved else {})

    @classmethod
    def section_names(cls) -> list[str]:
        """Return the sections in their order."""
        return [f.name for f in fields(cls) if f.name != UNRESOLVED]


SECTIONS: dict[str, type] = {
    "zero": ZeroConfig,
    "launch": LaunchConfig,
    "train": TrainConfig,
    "batch": BatchConfig,
    "state": StateConfig,
    "profile": ProfileConfig,
    "estimate": EstimateConfig,
    "run": RunConfig,
    "sweep": SweepConfig,
}


def _section(section: str, values: Any) -> Any:
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{section}: expected options such as {section}.KEY=VALUE, got {values!r}.")
    if section in SECTIONS:
        return parse_fields(SECTIONS[section], values or {}, section)
    if section in registry.LISTS:
        return tuple(_listed(section, name, options) for name, options in (values or {}).items())
    allowed = ", ".join(registry.names(section))
    values = values or ({"name": registry.DEFAULTS[section]} if section in registry.DEFAULTS else None)
    if not values or "name" not in values:
        raise ConfigError(f"{section}.name is missing: choose one with {section}=NAME. Registered: {allowed}.")
    name = values["name"]
    if not isinstance(name, str):
        raise ConfigError(f"{section}.name: expected one of {allowed}, got {name!r}.")
    options = {key: value for key, value in values.items() if key != "name"}
    return Choice(name, parse_fields(registry.options_type(section, name), options, section))


def _listed(section: str, name: str, values: Any) -> Choice:
    if not isinstance(values or {}, dict):
        raise ConfigError(
            f"{section}.{name}: expected options such as {section}.NAME.KEY=VALUE, got {values!r}. A YAML file of a "
            f"{section.removesuffix('s')} begins with `# @package {section}.NAME`."
        )
    return Choice(name, parse_fields(registry.options_type(section, name), values or {}, f"{section}.{name}"))


def _plain(section: Any) -> dict[str, Any]:
    if isinstance(section, tuple):
        return {choice.name: to_plain(choice.options) for choice in section}
    if isinstance(section, Choice):
        return {"name": section.name, **to_plain(section.options)}
    return to_plain(section)


def _at_least(minimum: int, **values: float) -> None:
    for key, value in values.items():
        if value < minimum:
            raise ValueError(f"{key} must be at least {minimum}, got {value}.")
