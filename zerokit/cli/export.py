"""`zerokit export PATH [FOLDER] [--dtype fp32|bf16|fp16]`: a state's weights as a model that other programs load.

PATH is a state or the output folder of a run, whose newest sound state is taken. safetensors and config.json are
written into FOLDER, by default model/ in the folder of the run, or export/ where the run has left its last weights.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from zerokit.cli.page import usage
from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.parse import finite
from zerokit.config.terminal import complain
from zerokit.record.metrics import last_metrics
from zerokit.record.summary import read_summary
from zerokit.state.errors import DamagedState, StateError
from zerokit.state.folder import FOLDER, given_states
from zerokit.state.manifest import read_manifest

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
USAGE = f"Give a state or the folder of a run: {usage(__doc__)}."


def main(words: list[str]) -> int:
    """Export the newest sound state that `words` name and print where the files are.

    Raises:
        ConfigError: there is no state, or an option is unknown.
    """
    source, target, dtype = _arguments(words)
    states = given_states(source)
    target = target or _beside(states[0])
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch says so; nothing here needs it
    from zerokit.train.export import export

    for state in states:
        try:
            files = export(state, target, dtype=DTYPES[dtype])
        except DamagedState as error:
            complain(error)
        except StateError as error:
            complain(error)
            return 2
        else:
            if state != states[0]:
                complain(f"exported {state} instead.")
            print("\n".join(str(target / file) for file in files))
            complain(_of_which_step(state))
            return 0
    return 1


def _of_which_step(state: Path) -> str:
    """Which step the exported weights are of, and whether the run has done, or is to do, more."""
    facts = read_manifest(state).facts
    step, run = facts.get("step"), state.resolve().parent.parent
    told = f"these are the weights after step {step}, from {state}"
    summary = read_summary(run) if state.resolve().parent.name == FOLDER else {}
    done = max((int(number) for number in (finite(summary.get("steps")), _last_step(run)) if number), default=0)
    if isinstance(step, int) and done > step:
        return (
            f"warning: {told}, but the run has done {done} steps: the later ones are in no saved state. Save the end "
            f"with state.every=N, of which {done} is a multiple, or state.every={done}."
        )
    planned = ((facts.get("config") or {}).get("train") or {}).get("steps")
    if summary.get("status") != "finished" and isinstance(planned, int) and isinstance(step, int) and step < planned:
        return f"{told}; the run is to have {planned} steps."
    return f"{told}."


def _last_step(run: Path) -> float | None:
    return finite(last_metrics(run / "metrics.jsonl").get("trainer/step"))


def _arguments(words: list[str]) -> tuple[str, Path | None, str]:
    dtype, paths, rest = "fp32", [], list(words)
    while rest:
        word = rest.pop(0)
        flag, given, value = word.partition("=")
        if flag == "--dtype":
            dtype = value if given else rest.pop(0) if rest else ""
        elif word.startswith("-"):
            raise ConfigError(f"Unknown flag {word}. {USAGE}")
        else:
            paths.append(word)
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype: expected one of {', '.join(DTYPES)}; got '{dtype}'.{suggestion(dtype, DTYPES)}")
    if len(paths) not in (1, 2):
        raise ConfigError(USAGE)
    return paths[0], Path(paths[1]) if len(paths) == 2 else None, dtype


def _beside(state: Path) -> Path:
    """`model/` in the run's folder, or `export/` where that has the run's final weights; or beside a state that belongs
    to none."""
    folder = state.parent if state.name else state.resolve().parent
    run = folder.parent if folder.name == FOLDER else folder
    return run / ("export" if (run / "model").exists() else "model")
