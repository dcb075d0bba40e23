"""`docs/deepspeed.md` from the table: `python -m zerokit.compat.deepspeed.document > docs/deepspeed.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zerokit.compat.deepspeed.rows import LEAVE, Kind, Row
from zerokit.compat.deepspeed.table import ALIASES, OPTIMIZERS, ROWS, SCHEDULERS
from zerokit.config.parse import spell

INTRODUCTION = """\
# DeepSpeed's keys, one by one

Written by `python -m zerokit.compat.deepspeed.document` from the
[table](../zerokit/compat/deepspeed/table.py) that translates a configuration, so that it says what happens.
`python -m zerokit convert ds_config.json` prints the same for the keys of a file.

- *becomes*: the key of zerokit's configuration that takes the value.
- *nothing to set*: the key is accepted and has no effect here; `initialize` says so in one line.
- *refused*: the key would change the results or promise what is not there. Values that ask for nothing (such as the
  default) are accepted, all others are an error with the alternative.
- *in the script*: the engine of `zerokit.compat.deepspeed` acts on it.

Unknown keys, also in sections where DeepSpeed ignores them, are errors with the nearest name. `"auto"` is taken from
the model (`bf16.enabled`, `fp16.enabled`) and the optimizer that the script gives (its hyperparameters,
`warmup_max_lr`); it counts as not given for the batch and for keys without effect, and is an error elsewhere.

The engine has DeepSpeed's names: `initialize`, `init_distributed`, `add_config_arguments`, `zero.Init`,
`zero.GatheredParameters`, `utils.safe_get_full_*` and `safe_set_full_*`, `runtime.lr_schedules`, `checkpointing`,
`comm`, `accelerator.get_accelerator`, `ops.adam`, `ops.lamb`, `ops.lion`, `ops.adagrad`. So are the paths
`runtime.engine`,
`runtime.config`, `runtime.utils`, `runtime.zero` (`config`, `partition_parameters`, `stage3`, `stage_1_and_2`),
`utils.zero_to_fp32` (a script too), `utils.logging`, `utils.tensor_fragment`, `checkpoint.utils`. `moe.layer`, `pipe`,
`engine.train_batch`, `eval_batch` and `offload_states` may be imported, and say what is not there when they are used.

`python -m zerokit.compat.deepspeed.install` makes `import deepspeed` mean zerokit in an environment without DeepSpeed,
for accelerate and transformers too; `--undo` takes it away again. What differs:

- `no_sync()` works at every stage. `safe_*` functions and `get_global_grad_norm()` do too, stage 0 included.
- `GatheredParameters(..., modifier_rank=R)` writes the elements that rank R changed, into the masters too; a change
  without `modifier_rank` is an error.
- Modules made under `zero.Init()` have values on rank 0 alone until `initialize` hands them out, in their own format.
- `client_state` holds data (numbers, texts, lists, dicts, tensors), never code; a state loads at any stage and on any
  number of processes. Checkpoints that DeepSpeed wrote are not read: export them to weights with its `zero_to_fp32.py`.
- `param_groups` may change learning rates, weight decays and a momentum that all groups share; other hyperparameters
  are fixed. `optimizer.state`, `state_dict()` and `load_state_dict()` have whole moments (and masters) by parameter;
  all ranks read them together.
- `loss.backward()`, also through several engines, counts as `engine.backward(loss)` does; in fp16 write
  `engine.scale(loss).backward()`.
- `destroy()` gives the model back with whole fp32 weights.
- `was_step_applied()`, `skipped_steps`, `get_global_grad_norm()` and the like wait for the device when they are read;
  `step()` itself waits only if there is a scheduler.
- At stage 3 parameters have `ds_id`, `ds_shape`, `ds_numel`, `ds_status`, `ds_tensor`, `ds_persist` (never),
  `all_gather()` and `partition()`. `set_z3_leaf_modules` marks modules, which changes nothing: units that some ranks
  skip hang nothing.
- At stage 3 a parameter may be used only inside the `forward` of the unit that owns it; `register_external_parameter`
  changes nothing.
- `engine.engine` is zerokit's own engine.
"""


def render() -> str:
    """The document."""
    parts = [INTRODUCTION, "## Keys\n", _table(ROWS)]
    parts.append(f"Older names: {', '.join(f'`{old}` for `{new}`' for old, new in ALIASES.items())}.\n")
    for group, kinds in (("optimizer", OPTIMIZERS), ("scheduler", SCHEDULERS)):
        parts += [f"## `{group}.type`\n", _kinds(group, kinds)]
        parts += [_parameters(group, name, kind) for name, kind in _distinct(kinds)]
    return "\n".join(parts).rstrip() + "\n"


def _table(rows: Iterable[Row], prefix: str = "") -> str:
    lines = ["| key | here | meaning |", "|---|---|---|"]
    lines += [f"| `{row.key}` | {_here(row, prefix)} | {row.note} |" for row in rows]
    return "\n".join(lines) + "\n"


def _here(row: Row, prefix: str) -> str:
    if row.to:
        target = f"becomes `{prefix}{row.to}`"
        return f"{target}, and in the script" if row.script else target
    if row.script:
        return "in the script"
    if row.accepts is None:
        return "nothing to set"
    values = [f"`{spell(value)}`" for value in row.accepts if value is not None]
    if values:
        return f"refused, unless {' or '.join(values)}"
    return "refused, if enabled" if row.kind is dict else "refused, if set"


def _kinds(group: str, kinds: Mapping[str, Kind]) -> str:
    lines = ["| type | here | meaning |", "|---|---|---|"]
    for name, kind in kinds.items():
        here = "refused" if kind.refused else f"becomes `{group}={kind.name}`"
        lines.append(f"| `{name}` | {here} | {kind.refused or kind.note} |")
    return "\n".join(lines) + "\n"


def _distinct(kinds: Mapping[str, Kind]) -> list[tuple[str, Kind]]:
    """One of the types that have the same parameters, with all their names."""
    names: dict[int, list[str]] = {}
    for name, kind in kinds.items():
        if kind.rows:
            names.setdefault(id(kind.rows), []).append(name)
    return [(", ".join(f"`{name}`" for name in found), kinds[found[0]]) for found in names.values()]


def _parameters(group: str, names: str, kind: Kind) -> str:
    more = "" if kind.others is None else f"\n\nAll other parameters go to the class, as `{group}.{kind.others}`."
    known = [f"Without it: `{_default(row)}`." if row.to else "" for row in kind.rows]
    lines = ["| parameter | here | meaning |", "|---|---|---|"]
    for row, default in zip(kind.rows, known, strict=True):
        lines.append(f"| `{row.key}` | {_here(row, f'{group}.')} | {f'{row.note}. {default}'.rstrip('. ')} |")
    return f"### `{group}.params` of {names}\n\n" + "\n".join(lines) + more + "\n"


def _default(row: Row) -> str:
    return "zerokit's own" if row.default is LEAVE else spell(row.value(row.default))


if __name__ == "__main__":
    print(render(), end="")
