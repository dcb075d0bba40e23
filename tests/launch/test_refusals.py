"""What only the workers find wrong with a configuration: one line and exit status 2, as for any other."""

from __future__ import annotations

import re

import pytest

from tests.commands import python, zerokit
from tests.fault.runs import ELASTIC, SMALL, Outcome

NO_CLASS = "optimizer.type=Nonsense: torch.optim has no such class. Classes: "
NO_MATCH = "optimizer.groups[0].match: 'nothing*' matches no parameter of the model. "
WORDS = {
    NO_CLASS: ("optimizer=torch", "optimizer.type=Nonsense"),
    NO_MATCH: ("optimizer.groups=[{match: 'nothing*', lr_factor: 0.1}]",),
}


def summary_of(folder) -> dict:
    return Outcome(2, 0.0, "", folder).summary


@pytest.mark.parametrize(("nproc", "text"), [(1, NO_CLASS), (2, NO_MATCH)])
def test_what_the_workers_refuse_is_a_configuration_error(tmp_path, nproc, text):
    """It is not tried again, and no traceback is shown."""
    words = (*SMALL, *WORDS[text], f"launch.nproc={nproc}", "launch.max_restarts=2", "estimate.run=false")
    result = zerokit(*words, "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"zerokit: {text}") and result.stderr.count("\n") == 1
    assert result.stdout == ""
    summary = summary_of(tmp_path / "run")
    assert (summary["status"], summary["attempts"]) == ("failed", [])
    assert result.stderr == f"zerokit: {summary['error']}\n"


def test_under_torchrun_rank_0_says_it(tmp_path):
    """torchrun itself ends with 1 whatever a rank ends with; its report has the status of the rank."""
    result = python(
        *ELASTIC, "-m", "zerokit", *SMALL, *WORDS[NO_CLASS], "estimate.run=false", "hydra.run.dir=run", cwd=tmp_path
    )
    assert result.returncode == 1
    assert result.stderr.count(NO_CLASS) == 1 and f"zerokit: {NO_CLASS}" in result.stderr
    assert re.search(r"exitcode +: 2", result.stderr), result.stderr
    assert summary_of(tmp_path / "run")["error"].startswith(NO_CLASS)


def test_under_torchrun_a_sweep_goes_on_after_it(tmp_path):
    words = (*SMALL, "train.steps=1", "optimizer=torch", "optimizer.type=Nonsense,AdamW", "estimate.run=false")
    result = python(*ELASTIC, "-m", "zerokit", "-m", *words, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert result.returncode == 1
    cells = [summary_of(cell.parent)["status"] for cell in (tmp_path / "sweep").glob("*/summary.json")]
    assert sorted(cells) == ["failed", "finished"], result.stderr
