"""Ranks that part are found at the first place where they do, by all of them, and go on after it."""

from __future__ import annotations

import glob
import time

import torch

from tests.ranks import run_ranks
from zerokit.comm import Communicator
from zerokit.comm.journal import LENGTH, SHARED, Journal


def journal_of(waits: bool) -> tuple[Journal, int]:
    comm = Communicator(torch.device("cpu"))
    return Journal(comm.rank, comm.world, comm._share_text, waits), comm.rank


def written(waits: bool) -> list:
    journal, rank = journal_of(waits)
    found = [journal.write(number) for number in range(LENGTH + 10)]
    time.sleep(0.05 * rank)  # one after the other
    found.append(journal.write(7 + rank))
    found += [journal.write(5), journal.write(6)]
    time.sleep(0.3)
    return [None if f is None else (f.mine, f.theirs) for f in [*found, journal.compare()]]


def test_all_ranks_see_a_difference_where_they_wait():
    first, second = run_ranks(written, 2, True)
    assert set(first[: LENGTH + 10]) == set(second[: LENGTH + 10]) == {None}
    assert first[LENGTH + 10 :] == [(7, 8), None, None, None]
    assert second[LENGTH + 10 :] == [(8, 7), None, None, None]


def test_where_nobody_waits_the_second_one_sees_it():
    first, second = run_ranks(written, 2, False)
    assert (8, 7) in second[LENGTH + 10 :] or (7, 8) in first[LENGTH + 10 :]


def left_behind() -> int:
    journal_of(True)
    Communicator(torch.device("cpu")).all_reduce(torch.zeros(1))
    return len(glob.glob(str(SHARED / "zerokit-journal-*")))


def test_no_file_is_left():
    assert run_ranks(left_behind, 3) == [0, 0, 0]


def one_is_late() -> float:
    journal, rank = journal_of(True)
    if rank:
        time.sleep(0.4)
    began = time.monotonic()
    assert journal.write(3) is None
    return time.monotonic() - began


def test_a_comparison_waits_for_a_late_rank():
    first, second = run_ranks(one_is_late, 2)
    assert first > 0.3 > second
