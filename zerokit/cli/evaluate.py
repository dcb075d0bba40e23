"""`zerokit evaluate RUN [KEY=VALUE ...]`: the figures of a run's weights on held-out data, in one process.

RUN is the output folder of a run, whose last weights are taken, or one of its states. Options change the data or the
evaluation, such as data.held_out_files=[new.jsonl] or train.eval_samples=1000.
"""

from __future__ import annotations

from zerokit.cli.opened import opened, run_folder
from zerokit.cli.page import usage
from zerokit.config.errors import ConfigError
from zerokit.config.terminal import complain


def main(words: list[str]) -> int:
    """Evaluate the run that `words` name, print its figures and return the exit status.

    Raises:
        ConfigError: there is no such run, or no data to evaluate on.
    """
    if not words or "=" in words[0] or words[0].startswith("-"):
        raise ConfigError(f"Give the folder of a run: {usage(__doc__)}.")
    trainer, told = opened(*run_folder(words[0]), words[1:])
    complain(f"{told} on {trainer.info.description}")
    metrics = trainer.evaluate()
    if not metrics:
        raise ConfigError("No data are held out: see data.held_out_percent, data.held_out_files, train.eval_samples.")
    for name, value in metrics.items():
        print(f"{name:20} {value:.6g}")
    return 0
