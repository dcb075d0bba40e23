"""The one table of DeepSpeed's keys: what each becomes here. Facts only, which `translation` applies. No torch.

Source: DeepSpeed 0.19, https://www.deepspeed.ai/docs/config-json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from zerokit.compat.deepspeed.rows import (
    FORMAT,
    LEAVE,
    Kind,
    Row,
    along,
    betas,
    finite,
    format_of,
    group_of,
    home_of,
    moot,
    moots,
    off,
    positive,
    refused,
    scale_of,
    taken,
    when,
)

PLANNED = "units follow the model's blocks (zero.units); their buffers are as large as they need to be"
OFFLOAD = "weights stay on the GPU: divide them over more processes (stage 3); offload_optimizer takes the states"
TRAFFIC = "engine.engine.comm.traffic counts the bytes of every collective"
VALIDATION = Literal["ignore", "warn", "fail"]
LIVE = "whole weights live in the slots of zero.prefetch + 1 blocks and are released after use"

# fmt: off
ROWS = (
    # -- batch -------------------------------------------------------------------------------------------------------
    Row("train_batch_size", int | None, "samples per step over all processes", to="batch.global", auto="none"),
    Row("train_micro_batch_size_per_gpu", int | None, "samples per forward pass of a process", to="batch.micro",
        auto="none"),
    Row("gradient_accumulation_steps", int | None, "forward and backward passes per step", to="batch.accumulation",
        auto="none"),
    Row("managed_gradient_accumulation", bool,
        "false: every step() is the boundary, as in DeepSpeed; gradients are then reduced inside step()", True,
        script=True),
    Row("dataloader_drop_last", bool, "used by the loader made of training_data", False, script=True),
    # -- number formats ----------------------------------------------------------------------------------------------
    Row("bf16.enabled", bool, "bf16 with exact fp32 master weights in 2 bytes per parameter", False, to="precision",
        value=when("bf16"), auto="dtype"),
    moot("bf16.immediate_grad_update", bool, "gradients are always added at once to their fp32 sums"),
    Row("bf16.check_grad_overflow", bool, "whether all ranks skip a step whose gradients are not finite", True,
        script=True),
    refused("bf16.bf16_master_weights_and_grads", bool,
        "weights would be rounded at every step; the exact masters cost 2 bytes per parameter", False),
    refused("bf16.bf16_optimizer_states", bool, "moments are fp32; optimizer.moments=bf16 or int8 makes them smaller",
        False),
    Row("fp16.enabled", bool, "fp16 with fp32 master weights and a loss scale", False, to="precision",
        value=when("fp16"), auto="dtype"),
    moot("fp16.auto_cast", bool, "floating-point inputs are always cast to the format of the weights"),
    Row("fp16.loss_scale", float, "a fixed loss scale; 0 adapts it", 0, to="precision.loss_scale", value=positive,
        needs="precision=fp16"),
    Row("fp16.initial_scale_power", int, "first loss scale: 2 to this power", 16, to="precision.initial_scale",
        value=scale_of, needs="precision=fp16"),
    Row("fp16.loss_scale_window", int, "steps without overflow before the scale doubles", 1000, to="precision.window",
        needs="precision=fp16"),
    Row("fp16.hysteresis", int, "overflows before the scale is halved", 2, to="precision.hysteresis",
        needs="precision=fp16"),
    Row("fp16.consecutive_hysteresis", bool, "whether every good step restores the hysteresis", False,
        to="precision.consecutive_hysteresis", needs="precision=fp16"),
    Row("fp16.min_loss_scale", float, "smallest loss scale", 1, to="precision.min_scale", needs="precision=fp16"),
    refused("fp16.fp16_master_weights_and_grads", bool, "master weights are fp32, or small updates are lost", False),
    off("amp", "Apex is not used: bf16.enabled trains in half precision without a loss scale"),
    off("torch_autocast", "weights are stored in the compute format: bf16.enabled or fp16.enabled takes its place"),
    Row("data_types.grad_accum_dtype", FORMAT,
        "format of gradient sums over micro-batches; fp32 unless given, also with bf16",
        to="precision.accumulate_dtype", value=format_of, script=True),
    refused("data_types.param_dtype", str | None, "the format of the weights follows from bf16.enabled, fp16.enabled"),
    refused("data_types.buffer_dtype", str | None, "buffers keep their format"),
    Row("communication_data_type", FORMAT,
        "format of gradient sums over processes; fp32 unless given, bf16 halves the traffic",
        to="precision.reduce_dtype", value=format_of, script=True),
    moot("seq_parallel_communication_data_type", str | None, "there is no sequence parallelism"),
    # -- gradients ---------------------------------------------------------------------------------------------------
    Row("gradient_clipping", float, "largest global norm of the gradients; 0 does not clip", 1.0,
        to="train.clip_norm", value=positive),
    moot("prescale_gradients", bool, "the update divides in fp32; in fp16 the loss is divided"),
    moot("gradient_predivide_factor", float, "the update divides in fp32; in fp16 the loss is divided"),
    Row("gradient_allreduce_op", Literal["mean", "sum"], "gradients are means over the processes, or sums", "mean",
        script=True),
    moot("sparse_gradients", bool, "gradients are dense: the same sums"),
    moot("disable_allgather", bool, "the collective follows from the stage"),
    # -- ZeRO --------------------------------------------------------------------------------------------------------
    Row("zero_optimization.stage", Literal[0, 1, 2, 3], "what is divided among the processes", 0, to="zero",
        value="stage{}".format),
    moot("zero_optimization.contiguous_gradients", bool, "gradients always lie in flat buffers"),
    moot("zero_optimization.reduce_scatter", bool, "the collective follows from the stage; sums are the same"),
    moot("zero_optimization.reduce_bucket_size", int, PLANNED),
    moot("zero_optimization.use_multi_rank_bucket_allreduce", bool, "there are no buckets"),
    moot("zero_optimization.allgather_partitions", bool, "the collective follows from the stage"),
    moot("zero_optimization.allgather_bucket_size", int, PLANNED),
    moot("zero_optimization.overlap_comm", bool | None, "always overlapped, ordered by events; results are the same"),
    moot("zero_optimization.load_from_fp32_weights", bool, "masters are always loaded"),
    moot("zero_optimization.elastic_checkpoint", bool, "a state resumes on any number of processes"),
    moot("zero_optimization.round_robin_gradients", bool, "every unit is cut evenly over the ranks"),
    moot("zero_optimization.ignore_unused_parameters", bool, "unused parameters have gradients of zero"),
    moot("zero_optimization.legacy_stage1", bool, "there is one implementation of all stages"),
    moot("zero_optimization.sub_group_size", int, "the update runs unit by unit"),
    moot("zero_optimization.stage3_prefetch_bucket_size", int, "zero.prefetch counts units; 1 by default"),
    moot("zero_optimization.prefetch_bucket_size", int, "zero.prefetch counts units; 1 by default"),
    moot("zero_optimization.stage3_param_persistence_threshold", int, "small modules stay whole (zero.min_unit)"),
    moot("zero_optimization.param_persistence_threshold", int, "small modules stay whole (zero.min_unit)"),
    moot("zero_optimization.stage3_model_persistence_threshold", int, "small modules stay whole (zero.min_unit)"),
    moot("zero_optimization.model_persistence_threshold", int, "small modules stay whole (zero.min_unit)"),
    moot("zero_optimization.stage3_max_live_parameters", int, LIVE),
    moot("zero_optimization.max_live_parameters", int, LIVE),
    moot("zero_optimization.stage3_max_reuse_distance", int, LIVE),
    moot("zero_optimization.max_reuse_distance", int, LIVE),
    moot("zero_optimization.stage3_module_granularity_threshold", int, "zero.min_unit decides which modules are units"),
    moot("zero_optimization.module_granularity_threshold", int, "zero.min_unit decides which modules are units"),
    moot("zero_optimization.stage3_gather_16bit_weights_on_model_save", bool, "save_16bit_model always gathers"),
    moot("zero_optimization.gather_16bit_weights_on_model_save", bool, "save_16bit_model always gathers"),
    moot("zero_optimization.stage3_gather_fp16_weights_on_model_save", bool, "save_16bit_model always gathers"),
    moot("zero_optimization.stage3_use_all_reduce_for_fetch_params", bool, "parameters are all-gathered"),
    moot("zero_optimization.use_all_reduce_for_fetch_params", bool, "parameters are all-gathered"),
    moot("zero_optimization.stage3_allgather_sequential", bool, "one all-gather per unit"),
    moot("zero_optimization.allgather_sequential", bool, "one all-gather per unit"),
    moot("zero_optimization.memory_efficient_linear", bool, "autograd saves whole weights of no sharded block"),
    moot("zero_optimization.override_module_apply", bool, "initialise the model as usual, or on the meta device"),
    moot("zero_optimization.pipeline_loading_checkpoint", bool, "each rank reads only its own part"),
    moot("zero_optimization.log_trace_cache_warnings", bool, "there is no trace to invalidate"),
    moot("zero_optimization.enable_sanity_checks", bool, "misuse is always an error"),
    moot("zero_optimization.leaf_module", dict, "unused experts have gradients of zero: nothing hangs"),
    moot("zero_optimization.save_muon_momentum_buffer_in_memory", bool, "it is"),
    Row("zero_optimization.zero_hpz_partition_size", int,
        "processes that have whole weights and gradients together; optimizer states are divided among all", 1,
        to="zero.shard_size", value=group_of, needs="zero=stage3", fixed={"zero.states": "all"}),
    Row("zero_optimization.mics_shard_size", int, "processes that have the whole state together", -1,
        to="zero.shard_size", value=group_of, needs="zero=stage3"),
    moot("zero_optimization.mics_hierarchical_params_gather", bool, "weights are gathered inside a group only"),
    refused("zero_optimization.zero_quantized_weights", bool, "weights travel exactly; bf16 halves the bytes", False),
    refused("zero_optimization.zero_quantized_nontrainable_weights", bool, "weights travel exactly", False),
    refused("zero_optimization.zero_quantized_gradients", bool,
        "gradients travel exactly; communication_data_type=bf16 halves the bytes, OneBitAdam compresses more", False),
    refused("zero_optimization.zeropp_loco_param", dict | None, "gradients travel exactly"),
    refused("zero_optimization.zenflow", dict | None, "updates are never delayed"),
    Row("zero_optimization.offload_optimizer.device", Literal["none", "cpu"],
        "states and masters in the host's memory; the GPU updates them, so every optimizer has it", "none",
        to="zero.offload", value=home_of),
    refused("zero_optimization.offload_optimizer.ratio", float,
        "zero.offload_keep_gib says how much of the states stays on the GPU", 1, 1.0),
    *moots("zero_optimization.offload_optimizer", "memory on the host is page-locked, and copies overlap updates",
        "buffer_count", "pin_memory", "pipeline_read", "pipeline_write", "pipeline", "fast_init", "super_offload",
        "cpuadam_cores_perc"),
    moot("zero_optimization.offload_optimizer.nvme_path", Any, "nothing is kept on disk"),
    refused("zero_optimization.offload_param.device", str, OFFLOAD, "none"),
    *moots("zero_optimization.offload_param", "weights stay on the GPU", "nvme_path", "buffer_count", "buffer_size",
        "max_in_cpu", "pin_memory"),
    Row("zero_optimization.cpu_offload", bool | None, "as offload_optimizer.device=cpu", False, to="zero.offload",
        value=when("states")),
    refused("zero_optimization.cpu_offload_param", bool | None, OFFLOAD, False),
    moot("zero_optimization.cpu_offload_use_pin_memory", bool | None, "memory on the host is page-locked"),
    Row("zero_allow_untested_optimizer", bool,
        "whether a class of the script's own is tried out on shards; one that needs whole tensors is refused by name",
        False, script=True),
    moot("zero_force_ds_cpu_optimizer", bool, "the GPU updates what lies on the host"),
    # -- activations and compiling -----------------------------------------------------------------------------------
    Row("activation_checkpointing", dict, "this section really checkpoints: every block recomputes its activations",
        to="checkpointing", value=lambda section: "none" if section is None else "full"),
    moot("activation_checkpointing.partition_activations", bool, "there is no model parallelism to divide them over"),
    Row("activation_checkpointing.cpu_checkpointing", bool,
        "true: activations of blocks move to the host instead of being recomputed", False, to="checkpointing",
        value=when("cpu")),
    moot("activation_checkpointing.contiguous_memory_optimization", bool, "PyTorch's allocator places them"),
    moot("activation_checkpointing.number_checkpoints", int | None, "there is one checkpoint per block"),
    moot("activation_checkpointing.synchronize_checkpoint_boundary", bool, "the host waits for nothing"),
    moot("activation_checkpointing.profile", bool, "time is measured by perf/step_time_s"),
    Row("compile.deepcompile", bool, "compiles the blocks, with the collectives outside", False,
        to="train.compile", value=when(True)),
    Row("compile.enabled", bool, "compiles the blocks, with the collectives outside", False,
        to="train.compile", value=when(True)),
    moot("compile.free_activation", bool, "activations are freed by autograd"),
    moot("compile.free_activation_threshold", int, "activations are freed by autograd"),
    refused("compile.offload_activation", bool, "activation_checkpointing.cpu_checkpointing does that", False),
    moot("compile.offload_activation_pin_memory", bool, "buffers on the host are always pinned"),
    refused("compile.offload_opt_states", bool, "zero_optimization.offload_optimizer.device=cpu does that", False),
    refused("compile.offload_parameters", bool, OFFLOAD, False),
    moot("compile.double_buffer", bool, LIVE),
    moot("compile.symmetric_memory", bool, "zero.transport=auto uses the memory of peers where it can"),
    moot("compile.debug_log", bool, "torch's TORCH_LOGS does that"),
    moot("compile.sync_before_reduce", bool, "collectives are ordered by events"),
    moot("compile.sync_after_reduce", bool, "collectives are ordered by events"),
    moot("compile.sync_before_allgather", bool, "collectives are ordered by events"),
    moot("compile.sync_after_allgather", bool, "collectives are ordered by events"),
    moot("compile.keep_int_input_tensors", bool, "the collectives are not in the graph"),
    moot("compile.keep_all_input_tensors", bool, "the collectives are not in the graph"),
    moot("compile.passes", list | None, "the collectives are not in the graph"),
    moot("graph_harvesting", bool, "train.cuda_graph=true records whole steps"),
    # -- reports -----------------------------------------------------------------------------------------------------
    Row("steps_per_print", float | None, "a script prints its progress every so many steps", to="train.log_every",
        value=finite, script=True),
    moot("wall_clock_breakdown", bool, "metrics: perf/step_time_s, time/data_pct; torch.profiler shows the rest"),
    moot("memory_breakdown", bool, "engine.engine.memory() and summary.json count memory by kind"),
    Row("dump_state", bool, "prints zerokit's configuration when the engine is made", False, script=True),
    Row("wandb.enabled", bool, "loss, gradient norm, learning rate, loss scale and skipped steps, for every step",
        False, to="tracker", value=lambda on: "wandb" if on else "none"),
    Row("wandb.project", str | None, "project", to="tracker.project", needs="tracker=wandb"),
    Row("wandb.team", str | None, "entity", to="tracker.entity", needs="tracker=wandb"),
    Row("wandb.group", str | None, "runs that belong together", to="run.group", needs="tracker=wandb"),
    off("tensorboard", "not written: wandb.enabled shows more, and the command line leaves metrics.jsonl"),
    off("csv_monitor", "not written: wandb.enabled shows more, and the command line leaves metrics.jsonl"),
    off("comet", "not written: wandb.enabled shows the same"),
    *moots("flops_profiler", "the command line measures perf/tflops_per_gpu and perf/mfu_pct in every step", "enabled",
        "recompute_fwd_factor", "profile_step", "module_depth", "top_modules", "detailed", "output_file"),
    *moots("comms_logger", TRAFFIC, "enabled", "verbose", "prof_all", "prof_ops", "debug"),
    *moots("timers", "the command line's metric perf/step_time_s", "throughput"),
    moot("log_level", str | None, "logging.getLogger('zerokit') takes a level"),
    moot("vocabulary_size", int | None, "it only checked the size for a multiple of 8"),
    # -- saved states ------------------------------------------------------------------------------------------------
    Row("checkpoint.tag_validation", VALIDATION, "what happens where ranks save under different tags", "warn",
        script=True),
    *moots("checkpoint", "any number of processes and any stage resume from a state, without conversion",
        "load_universal", "use_node_local_storage", "parallel_write", "writer",
        "checkpoint_serialization"),
    moot("nebula", dict, "states are written by zerokit"),
    moot("datastates_ckpt", dict, "states are written by zerokit"),
    *moots("aio", "there is no offload to disk", "block_size", "queue_depth", "intra_op_parallelism", "thread_count",
        "single_submit", "overlap_events", "use_gds"),
    # -- what is not there -------------------------------------------------------------------------------------------
    off("elasticity", "give a batch that divides; a state resumes on any number of processes"),
    off("autotuning", "a sweep tries combinations: python -m zerokit -m zero=stage1,stage2,stage3"),
    off("data_efficiency", "sample the data in the script's own loader"),
    off("curriculum_learning", "sort the data in the script's own loader"),
    off("progressive_layer_drop", "drop layers in the model itself"),
    off("eigenvalue", "it serves quantisation schedules, which are not there"),
    off("quantize_training", "train in bf16 and quantise afterwards"),
    off("compression_training", "train in bf16 and compress afterwards"),
    off("weight_quantization", "train in bf16 and quantise afterwards"),
    off("sparse_attention", "use torch.nn.attention.flex_attention in the model"),
    moot("optimizer.legacy_fusion", bool, "one kernel updates every shard"),
    moot("optimizer.torch_adam", bool, "one kernel updates every shard"),
    off("hybrid_engine", "generate with the model inside `with engine.engine.gathered()`"),
    refused("tensor_parallel.autotp_size", int, "there is data parallelism only; stage 3 divides the weights", 0, 1),
    off("expert_parallel", "there is data parallelism only; stage 3 divides the experts"),
    moot("pipeline", dict, "there are no pipeline stages; nothing of it applies to other models"),
    refused("sequence_parallel_size", int, "there is data parallelism only", 1),
    moot("data_parallel_size", int | None, "it is the number of processes"),
    moot("use_data_before_expert_parallelism", bool, "there is data parallelism only"),
)
# fmt: on

ALIASES = {"bfloat16": "bf16"}
"""Older names of sections."""

# -- optimizers and schedulers ---------------------------------------------------------------------------------------


LR = taken("lr", float, "peak learning rate", 1e-3, "lr")
EPS = taken("eps", float, "added to the divisor", 1e-8, "eps")
DECAY = taken("weight_decay", float, "of all parameters, norms and biases too, as in DeepSpeed", 0.0, "weight_decay")
KERNELS = tuple(
    moot(key, bool | None, "one kernel updates every shard")
    for key in ("torch_adam", "fused", "foreach", "capturable", "differentiable", "set_grad_none", "cuda_aware")
) + (moot("fp32_optimizer_states", bool, "they are fp32"),)
CLIPPING = refused("max_grad_norm", float, "write it as gradient_clipping, at the top level", 0.0)
CORRECTED = refused("bias_correction", bool, "the moments are always corrected", True)
NO_AMSGRAD = refused("amsgrad", bool, "its running maximum is not kept", False)
MODE = moot(
    "adam_w_mode", bool, "true, the default even of Adam: weight decay is decoupled (AdamW); false: an L2 penalty"
)
ADAM = (LR, *betas(), EPS, DECAY, MODE, CORRECTED, NO_AMSGRAD, CLIPPING, *KERNELS)
ONEBIT = (
    *(LR, *betas(), EPS, DECAY, CORRECTED, NO_AMSGRAD, CLIPPING, *KERNELS),
    taken("freeze_step", int, "steps before communication is compressed", 100_000, "freeze_step"),
    refused("eps_inside_sqrt", bool, "epsilon is added to the root", False),
    moot("comm_backend_name", str, "NCCL on GPUs, gloo on CPUs"),
    moot("exp_avg_mask", list | None, "elements without a gradient in the warm-up stay as they are"),
)
DAMPENING = refused("dampening", float, "gradients enter the velocity whole", 0)


def rate(default: float) -> Row:
    """The learning rate, where an optimizer has another default."""
    return replace(LR, default=default)


SGD = (
    rate(1e-3),
    taken("momentum", float, "factor of the velocity", 0.0, "momentum"),
    taken("nesterov", bool, "looks one step ahead", False, "nesterov"),
    DECAY,
    DAMPENING,
    CLIPPING,
    *KERNELS,
)
ADAGRAD = (
    rate(1e-2),
    taken("lr_decay", float, "decay of the learning rate", 0.0, "lr_decay"),
    taken("eps", float, "added to the divisor", 1e-10, "eps"),
    taken("initial_accumulator_value", float, "first sum of squares", 0.0, "initial"),
    DECAY,
    NO_AMSGRAD,
    CLIPPING,
    *KERNELS,
)
LAMB = (
    *(LR, *betas(), EPS, DECAY, CORRECTED, NO_AMSGRAD, CLIPPING, *KERNELS),
    taken("max_coeff", float, "largest ratio of a parameter's norm to that of its step", 10.0, "max_ratio"),
    taken("min_coeff", float, "smallest ratio of a parameter's norm to that of its step", 0.01, "min_ratio"),
    refused("eps_inside_sqrt", bool, "epsilon is added to the root", False),
)
MUON = (
    taken("lr", float, "learning rate of matrices, and of the rest", 0.02, "lr"),
    taken("lr", float, "of the rest", 3e-4, "adamw_lr"),
    taken("muon_lr", float, "learning rate of matrices", LEAVE, "lr"),
    taken("adam_lr", float, "learning rate of the rest", LEAVE, "adamw_lr"),
    taken("momentum", float, "decay of the mean of gradients", 0.95, "momentum"),
    taken("betas", list[float], "decay of the first moment of the rest", [0.9, 0.95], "adamw_beta1", lambda b: b[0]),
    taken("betas", list[float], "decay of the second moment of the rest", [0.9, 0.95], "adamw_beta2", lambda b: b[1]),
    taken("eps", float, "of the rest", 1e-10, "adamw_eps"),
    DECAY,
    CLIPPING,
    moot("ns_method", str, "the quintic Newton-Schulz iteration, on the rank that owns a matrix"),
)
MUON_FIXED = {"scale": "original", "adamw_for": ["*embed*", "*lm_head*"]}
ADAFACTOR = (
    rate(1e-2),
    taken("beta2_decay", float, "exponent of the decay of second moments", -0.8, "decay", lambda power: -power),
    taken("d", float, "largest root mean square of a step", 1.0, "clip"),
    DECAY,
    CLIPPING,
    *KERNELS,
)
BY_NAME = (LR, DECAY, CLIPPING, *KERNELS)
MUP = "there is no muP here: give learning rates with optimizer.groups"

OPTIMIZERS: Mapping[str, Kind] = {
    "adam": Kind("adamw", "AdamW's weight decay, as in DeepSpeed; adam_w_mode=false makes it optimizer=adam", ADAM),
    "adamw": Kind("adamw", "AdamW", ADAM),
    "sgd": Kind("sgd", "gradient descent", SGD),
    "adagrad": Kind("adagrad", "Adagrad", ADAGRAD),
    "lamb": Kind("lamb", "LAMB, with norms over all shards of a parameter", LAMB),
    "lion": Kind("lion", "Lion", (LR, *betas(), DECAY, CLIPPING, *KERNELS)),
    "muon": Kind("muon", "Muon for matrices, AdamW for embeddings, the head and vectors", MUON, MUON_FIXED),
    "adafactor": Kind("adafactor", "Adafactor", ADAFACTOR),
    "adam8bit": Kind("adam8bit", "zerokit's own: AdamW with moments of 8 bits", (LR, *betas(), EPS, DECAY)),
    "schedulefreeadamw": Kind(
        "schedule_free_adamw", "zerokit's own: AdamW without a schedule", (LR, *betas(), EPS, DECAY)
    ),
    **{
        name.lower(): Kind("torch", "torch.optim's, by name, on the shards", BY_NAME, {"type": name}, others="params")
        for name in ("Adadelta", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop")
    },
    "onebitadam": Kind(
        "onebit_adam", "exact AdamW, then compressed momenta; here at stage 1 as well as at stage 0", ONEBIT
    ),
    "lbfgs": Kind(refused="it evaluates the loss several times in a step; use AdamW"),
    "sparseadam": Kind(refused="gradients are dense; use Adam"),
    "muadam": Kind(refused=MUP),
    "muadamw": Kind(refused=MUP),
    "musgd": Kind(refused=MUP),
    "onebitlamb": Kind(refused="use OneBitAdam, which compresses as much, or Lamb"),
    "zerooneadam": Kind(refused="use OneBitAdam, which compresses as much"),
}
"""By type in lower case."""


RATES = float | list[float]
WARMUP = (
    along("warmup_min_lr", RATES, "learning rate of the first step", 0.0),
    along(
        "warmup_max_lr", RATES | None, "learning rate after the warm-up; the optimizer's if left out", None, "optimizer"
    ),
    along("warmup_num_steps", int, "steps of the warm-up", 1000),
    along("warmup_type", Literal["log", "linear"], "shape of the warm-up", "log"),
)
TOTAL = along("total_num_steps", int, "steps of the run, at whose end the decay ends", None)
FIRST = moot("last_batch_iteration", int, "a state that is loaded says where the schedule goes on")
TORCH = "torch.optim.lr_scheduler's, by name"

SCHEDULERS: Mapping[str, Kind] = {
    "LRRangeTest": Kind(
        "lr_range_test",
        "grows from step to step, to find the largest rate",
        (
            along("lr_range_test_min_lr", RATES, "first learning rate", 1e-3),
            along("lr_range_test_step_size", int, "steps of an interval", 2000),
            along("lr_range_test_step_rate", float, "growth per interval, in parts of the first rate", 1.0),
            along("lr_range_test_staircase", bool, "grows between intervals only", False),
            FIRST,
        ),
    ),
    "OneCycle": Kind(
        "one_cycle",
        "up, down, and on down; the momentum the other way",
        (
            along("cycle_min_lr", RATES, "first learning rate", LEAVE),
            along("cycle_max_lr", RATES, "largest learning rate", LEAVE),
            along("decay_lr_rate", float, "decay per interval after the cycle", 0.0),
            along("cycle_first_step_size", int, "steps up", 2000),
            along("cycle_second_step_size", int | None, "steps down; as many if left out", None),
            along("cycle_first_stair_count", int, "stairs up; 0 makes a line", 0),
            along("cycle_second_stair_count", int | None, "stairs down; as many if left out", None),
            along("decay_step_size", int, "steps of an interval after the cycle; 0 does not decay", 0),
            along("cycle_momentum", bool, "the momentum (first beta) moves the other way", True),
            along("cycle_min_mom", float, "smallest momentum", 0.8),
            along("cycle_max_mom", float, "largest momentum", 0.9),
            along("decay_mom_rate", float, "growth of the momentum per interval after the cycle", 0.0),
            FIRST,
        ),
    ),
    "WarmupLR": Kind("warmup", "warm-up, then constant", (*WARMUP, FIRST)),
    "WarmupDecayLR": Kind(
        "warmup_decay",
        "warm-up, then a line down to the first rate",
        (TOTAL, *(replace(row, default=1e-3) if row.key == "warmup_max_lr" else row for row in WARMUP), FIRST),
    ),
    "WarmupCosineLR": Kind(
        "warmup_cosine",
        "warm-up, then half a cosine",
        (
            TOTAL,
            along("warmup_min_ratio", float, "first learning rate, in parts of the peak", 0.0),
            along("warmup_num_steps", int, "steps of the warm-up", 1000),
            along("cos_min_ratio", float, "last learning rate, in parts of the peak", 1e-4),
            along("warmup_type", Literal["log", "linear"], "shape of the warm-up", "log"),
            FIRST,
        ),
    ),
    **{
        name: Kind("torch", TORCH, fixed={"type": name}, others="params")
        for name in (
            *("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR", "CyclicLR"),
            *("OneCycleLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts"),
        )
    },
    "ReduceLROnPlateau": Kind(refused="it waits for a metric; step one of your own after engine.step()"),
}


def optimizer_kind(name: str, params: Mapping[str, Any]) -> Kind | None:
    """The kind of `optimizer.type`; None for one that DeepSpeed takes from torch.optim and that is not there."""
    if name.lower() == "adam" and params.get("adam_w_mode") is False:
        return Kind("adam", "Adam with an L2 penalty, as adam_w_mode=false asks", ADAM)
    return OPTIMIZERS.get(name.lower())
