"""Names of DeepSpeed that scripts and libraries import and call."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

import zerokit.compat.deepspeed as deepspeed
from tests.compat.scripts import Net, make, on_all_stages, train
from zerokit.compat.deepspeed.utils import zero_to_fp32

NAMES = {
    "": "DeepSpeedConfig DeepSpeedEngine PipelineModule __version_major__ initialize",
    "runtime.lr_schedules": "WarmupLR OneCycle WARMUP_LR VALID_LR_SCHEDULES WARMUP_MIN_LR CYCLE_MAX_LR",
    "runtime.engine": "DeepSpeedEngine DeepSpeedOptimizerCallable",
    "runtime.config": "DeepSpeedConfig DeepSpeedConfigError",
    "runtime.utils": "see_memory_usage clip_grad_norm_",
    "runtime.zero": "Init GatheredParameters",
    "runtime.zero.config": "ZeroStageEnum",
    "runtime.zero.partition_parameters": "ZeroParamStatus Init GatheredParameters",
    "runtime.zero.stage3": "DeepSpeedZeroOptimizer_Stage3",
    "runtime.zero.stage_1_and_2": "DeepSpeedZeroOptimizer",
    "utils": "safe_get_full_grad set_z3_leaf_modules logger",
    "utils.logging": "logger log_dist",
    "utils.tensor_fragment": "safe_get_full_fp32_param",
    "utils.zero_to_fp32": "get_fp32_state_dict_from_zero_checkpoint convert_zero_checkpoint_to_fp32_state_dict "
    "load_state_dict_from_zero_checkpoint",
    "checkpoint.utils": "clone_tensors_for_torch_save",
    "ops.adam": "FusedAdam DeepSpeedCPUAdam",
    "moe.layer": "MoE",
    "pipe": "PipelineModule LayerSpec",
}


@pytest.mark.parametrize("module", NAMES)
def test_names_are_imported_by_path(module):
    found = import_module(f"zerokit.compat.deepspeed.{module}".rstrip("."))
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


def test_what_is_not_there_says_so_when_it_is_used():
    for name, module in (("MoE", "moe.layer"), ("PipelineModule", "pipe"), ("LayerSpec", "pipe")):
        kind = getattr(import_module(f"zerokit.compat.deepspeed.{module}"), name)
        with pytest.raises(NotImplementedError, match=f"deepspeed's {name} is not there: "):
            kind(None)
    engine, *_ = make(0)
    for call in (engine.train_batch, engine.eval_batch, engine.offload_states):
        with pytest.raises(NotImplementedError, match="is not there: "):
            call()


def described(stage: int) -> list:
    engine, *_ = make(stage)
    weight = engine.module.blocks[0][0].weight
    found: list = [hasattr(weight, "ds_id")]
    if found[0]:
        status = deepspeed.runtime.zero.partition_parameters.ZeroParamStatus
        found += [weight.ds_numel, tuple(weight.ds_shape), weight.ds_status is status.NOT_AVAILABLE, weight.ds_persist]
        whole = engine.engine.full_state_dict()["blocks.0.0.weight"].flatten()
        part = weight.ds_tensor.numel() <= 144 and set(weight.ds_tensor.tolist()) <= set(whole.tolist())
        weight.all_gather()
        gathered = weight.ds_status is status.AVAILABLE and torch.equal(weight.detach().flatten(), whole)
        weight.partition()
        found += [part, gathered, weight.ds_status is status.NOT_AVAILABLE]
    train(engine, 1)
    engine.empty_partition_cache()
    engine.allreduce_gradients()
    engine.set_train_micro_batch_size(3)
    world = engine.world_size
    found += [engine.get_batch_info() == (6 * world, 3, 2), engine.mpu, engine.optimizer_name(), engine.get_type()]
    weights = engine.module_state_dict()
    engine.load_module_state_dict({"module": {name: value + 1 for name, value in weights.items()}})
    found.append(all(torch.equal(value, weights[n] + 1) for n, value in engine.module_state_dict().items()))
    engine.destroy()
    return [*found, hasattr(weight, "ds_id")]


def test_parameters_and_the_engine_have_deepspeeds_attributes():
    end = [True, None, "adam", [None], True, False]
    for index, found in enumerate(on_all_stages(described, 2)):
        third = [True, 144, (12, 12), True, False, True, True, True]
        assert found == ([*third, *end] if index % 4 == 3 else [False, *end])


def test_leaf_modules_are_marked():
    model, u = Net(), deepspeed.utils
    assert u.set_z3_leaf_modules(model, ["LayerNorm", torch.nn.Tanh]) == u.get_z3_leaf_modules(model)
    assert len(u.get_z3_leaf_modules(model)) == 3 and u.z3_leaf_module(model.norm)
    assert len(u.unset_z3_leaf_modules(model, [torch.nn.LayerNorm])) == 1 and not u.z3_leaf_module(model.norm)
    with pytest.raises(ValueError, match="no module of Conv3d"):
        u.set_z3_leaf_modules(model, ["Conv3d"])


def test_zero_to_fp32_writes_the_weights(tmp_path, capsys):
    engine, *_ = make(3)
    train(engine, 1)
    engine.save_checkpoint(tmp_path)
    wanted = engine.engine.full_state_dict()
    zero_to_fp32.main([str(tmp_path), str(tmp_path / "out")])
    found = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    model = zero_to_fp32.load_state_dict_from_zero_checkpoint(Net(), tmp_path)
    for name, value in wanted.items():
        assert torch.equal(found[name], value) and torch.equal(model.get_parameter(name), value)
    with pytest.raises(SystemExit, match="2"):
        zero_to_fp32.main([str(tmp_path / "none"), str(tmp_path)])
    assert "There is no checkpoint 'latest'" in capsys.readouterr().err


def test_small_helpers():
    config = deepspeed.DeepSpeedConfig({"train_batch_size": 8, "zero_optimization": {"stage": 2}})
    assert (config.train_batch_size, config.zero_optimization_stage, config.zero_enabled) == (8, 2, True)
    whole = torch.arange(8.0)
    cloned = deepspeed.checkpoint.utils.clone_tensors_for_torch_save({"a": [whole[:2]]})
    assert cloned["a"][0].untyped_storage().nbytes() == 8 and cloned["a"][0].tolist() == [0.0, 1.0]
    adam = deepspeed.ops.adam.FusedAdam([torch.nn.Parameter(whole)], lr=0.5)
    assert isinstance(adam, deepspeed.ops.adam.FusedAdam) and adam.defaults["lr"] == 0.5
    assert isinstance(deepspeed.ops.adam.DeepSpeedCPUAdam, type)
