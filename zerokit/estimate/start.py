"""Before a run: predict it, note the prediction in its folder, and with `zero=auto` choose it and go on to the next."""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerokit.config.identity import digest
from zerokit.config.schema import Config
from zerokit.config.terminal import say, wrapped
from zerokit.estimate.own_process import in_own_process
from zerokit.launch import finished, launch
from zerokit.launch.before import check_before
from zerokit.launch.environment import joined_rank
from zerokit.launch.errors import TrainingFailed
from zerokit.record.summary import PREDICTION, read_summary, write_summary

if TYPE_CHECKING:
    from zerokit.estimate.choose import Choice
    from zerokit.estimate.prediction import Prediction

log = logging.getLogger(__name__)

OUT_OF_MEMORY = re.compile(r"out ?of ?memory|SIGKILL", re.IGNORECASE)


def start(config: Config, run_dir: Path, entry: str | None = None, choice: Choice | None = None) -> dict[str, Any]:
    """Launch the run as `zerokit.launch.launch` does, with its prediction.

    With `zero.auto` the candidates run one after the other until one does not run out of memory; summary.json lists
    them as `choices`. Where torchrun or srun started the processes, a failure ends them, so there is one attempt.

    Args:
        config: of the run.
        run_dir: its output folder.
        entry: as `launch` takes it.
        choice: what `zero.auto` has chosen for this configuration already.

    Raises:
        ConfigError: as `launch`, or nothing is predicted to fit. TrainingFailed: as `launch`, of the last attempt.
    """
    check_before(config, run_dir)
    if config.zero.auto:
        return _auto(config, run_dir, entry, choice or _in_own_process(_choose, config))
    return launch(config, run_dir, entry, _note(_predicted(config) if config.estimate.run else {}))


def _predicted(config: Config) -> dict[str, Any]:
    """What is predicted for a run, or why nothing is."""
    try:
        made = _in_own_process(_predict, config)
    except (
        Exception
    ) as error:  # a run never fails for want of its prediction; what is wrong with the run, it says itself
        log.info("nothing is predicted", exc_info=True)
        return {"predicted_gib": None, "prediction_error": f"{type(error).__name__}: {error}"}
    return {"predicted_gib": made.predicted_gib, "predicted": made.to_dict()}


def _in_own_process(function: Callable[[Config], Any], config: Config) -> Any:
    importlib.import_module("zerokit.estimate.simulate")  # here, not in the forked process and again in every worker
    return in_own_process(function, config)


def _predict(config: Config) -> Prediction:
    from zerokit.estimate.machine import default_world, hardware_of
    from zerokit.estimate.simulate import Simulator

    return Simulator(config, hardware_of(config)).predict(config, default_world(config))


def _choose(config: Config) -> Choice:
    from zerokit.estimate.choose import choose
    from zerokit.estimate.machine import default_world, hardware_of

    return choose(config, default_world(config), hardware_of(config))


def _auto(config: Config, run_dir: Path, entry: str | None, choice: Choice) -> dict[str, Any]:
    candidate, attempts = choice.fitting[0], []
    while True:
        why, made = choice.why(candidate), candidate.prediction
        say("\n".join(line for text in why for line in wrapped(text)))
        done = finished(candidate.cfg, run_dir)
        attempts.append({"choice": str(candidate), "predicted_gib": made.predicted_gib, "predicted_s": made.seconds,
                         "status": "running", "error": None})  # fmt: skip
        facts = {"predicted_gib": made.predicted_gib, "predicted": made.to_dict(), "why": why, "choices": attempts}
        try:
            # config.yaml will hold the choice: what it was made for has to be found again too
            summary = launch(candidate.cfg, run_dir, entry, _note(facts | {"asked": digest(config.to_dict())}))
        except TrainingFailed as error:
            following = choice.after(candidate) if OUT_OF_MEMORY.search(str(error)) else None
            _record(run_dir, attempts, "failed", str(error).splitlines()[0])
            if following is None or joined_rank() is not None:
                raise
            say(f"zero=auto: {candidate} ran out of memory.")
            candidate = following
            continue
        if done is not None:  # it was left as it is
            return summary
        return _record(run_dir, attempts, summary.get("status", "finished"), None) or summary


def _record(run_dir: Path, attempts: list[dict[str, Any]], status: str, error: str | None) -> dict[str, Any]:
    """Write down how the last attempt ended."""
    attempts[-1] |= {"status": status, "error": error}
    summary = read_summary(run_dir)
    if summary:
        summary["choices"] = attempts
        write_summary(run_dir, summary)
    return summary


def _note(facts: dict[str, Any]) -> dict[str, str]:
    """What is known before the run, as the file in which its rank 0 finds it."""
    return {PREDICTION: json.dumps(facts, indent=1) + "\n"}
