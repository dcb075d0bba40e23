"""What other tools call an option, and what to write here: no alias, only the hint in the error for an unknown key."""

from __future__ import annotations

KEYS = {
    "optimizer.lr": "learning_rate base_lr peak_lr max_lr",
    "batch.global": "batch_size global_batch_size train_batch_size total_batch_size bs",
    "batch.micro": "micro_batch_size per_device_train_batch_size train_micro_batch_size_per_gpu per_device_batch_size",
    "batch.accumulation": "gradient_accumulation_steps accumulate_grad_batches grad_accum grad_accumulation "
    "accumulation_steps gradient_accumulation",
    "train.steps": "max_steps num_steps total_steps train_steps max_iters num_training_steps iterations",
    "train.clip_norm": "gradient_clipping max_grad_norm gradient_clip_val clip_grad clip_grad_norm grad_clip",
    "train.log_every": "logging_steps log_interval log_steps log_every_n_steps",
    "train.eval_every": "eval_steps eval_interval val_check_interval evaluation_interval",
    "scheduler.warmup": "warmup_steps num_warmup_steps warmup_ratio warmup_iters",
    "state.every": "save_steps save_interval checkpoint_interval checkpoint_every save_every",
    "state.keep": "save_total_limit save_top_k keep_last",
    "state.resume": "resume_from_checkpoint resume_from checkpoint ckpt_path load_checkpoint",
    "data.seq_len": "max_length max_seq_length block_size seq_length sequence_length context_length",
    "hydra.run.dir": "output_dir out_dir output save_dir default_root_dir log_dir",
    "launch.nproc": "nproc_per_node num_gpus gpus devices world_size num_processes",
    "launch.device": "accelerator",
    "run.name": "run_name wandb_name experiment_name",
    "tracker.project": "wandb_project project_name",
}
CHOICES = {
    "optimizer": "optim optimizer_name",
    "scheduler": "lr_scheduler lr_scheduler_type schedule",
    "precision": "mixed_precision dtype torch_dtype amp",
    "tracker": "report_to logger",
    "model": "model_name model_type architecture",
    "data": "dataset dataset_name",
    "zero": "zero_stage stage sharding_strategy fsdp strategy",
}
WORDS = {
    "bf16": "precision=bf16",
    "fp16": "precision=fp16",
    "fp32": "precision=fp32",
    "half": "precision=fp16",
    "zero_optimization": "zero=stageN",
    "deepspeed": "what `zerokit convert FILE` prints for the file",
    "deepspeed_config": "what `zerokit convert FILE` prints for the file",
    "ds_config": "what `zerokit convert FILE` prints for the file",
    "epochs": "train.steps=N; a run is as long as its optimizer steps",
    "num_epochs": "train.steps=N; a run is as long as its optimizer steps",
    "max_epochs": "train.steps=N; a run is as long as its optimizer steps",
    "num_train_epochs": "train.steps=N; a run is as long as its optimizer steps",
    "gradient_checkpointing": "checkpointing=full",
    "activation_checkpointing": "checkpointing=full",
    "torch_compile": "train.compile=true",
    "model_name_or_path": "model=hf model.path=FOLDER",
    "train_file": "data=text data.files=[FILE]",
    "wandb": "tracker=wandb",
    "tensorboard": "tracker=tensorboard",
}
"""Whole words, whatever the value."""

_HERE = {name: key for key, names in KEYS.items() for name in names.split()}
_GROUPS = {name: group for group, names in CHOICES.items() for name in names.split()}


def instead(key: str, value: str = "VALUE") -> str:
    """What to write for an option of another tool, such as `optimizer.lr=1e-3`; empty if it is not known."""
    name = key.rpartition(".")[2].lower().replace("-", "_")
    if name in WORDS:
        return WORDS[name]
    if name in _HERE:
        return f"{_HERE[name]}={value}"
    if name == "zero_stage" and value.isdigit():
        return f"zero=stage{value}"
    return f"{_GROUPS[name]}=NAME" if name in _GROUPS else ""
