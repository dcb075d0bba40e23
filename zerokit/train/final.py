"""The weights that a finished run leaves behind, for other programs."""

from __future__ import annotations

import logging
from typing import Any

from zerokit.callbacks import Callback, Run
from zerokit.config.errors import naming
from zerokit.state.errors import StateError
from zerokit.train.export import DTYPES, export_final

log = logging.getLogger("zerokit")
FOLDER = "model"


class Final(Callback):
    """Writes the weights into `model` of the run's folder, as `state.final` says."""

    def __init__(self, run: Run):
        self._run = run

    def on_end(self, summary: dict[str, Any]) -> None:
        """Write them if the run has finished. A collective then.

        Raises:
            StateError: they cannot be written, unless state.on_error says to go on.
        """
        options, target = self._run.config.state, self._run.folder / FOLDER
        if summary["status"] != "finished" or not options.final:
            return
        trainer = self._run.trainer
        try:
            with naming(target):
                export_final(trainer.engine, self._run.config.to_dict(), target, DTYPES[options.final_dtype])
        except OSError as error:
            problem = f"The final weights cannot be written: {target}: {error.strerror or error}."
            if options.on_error == "fail":
                raise StateError(f"{problem} state.final=false leaves them out.") from error
            log.warning("%s", problem)
        else:
            summary["final"] = {"folder": FOLDER, "step": trainer.progress.step, "dtype": options.final_dtype}
