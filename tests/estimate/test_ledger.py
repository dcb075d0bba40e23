from __future__ import annotations

import torch

from zerokit.estimate.clock import Clock, Lane
from zerokit.estimate.ledger import Ledger


def meta(count: int) -> torch.Tensor:
    return torch.empty(count, dtype=torch.uint8, device="meta")


def test_storages_count_once_from_first_sight_to_last_view():
    ledger = Ledger()
    with ledger.of_kind("activations"):
        a = meta(1000)
        ledger.see(a)
        ledger.see(a[10:20])
    assert ledger.total == 1024, "rounded to what the allocator hands out"
    view = a.view(10, 100)
    del a
    assert ledger.live["activations"] == 1024
    del view
    assert ledger.total == 0 and ledger.peak == 1024
    assert ledger.at_peak["activations"] == 1024


def test_what_lies_elsewhere_is_not_counted():
    ledger = Ledger()
    a = meta(1000)
    ledger.see(a)
    ledger.hide(a)
    ledger.see(a)
    assert ledger.total == 0 and ledger.is_hidden(a[:5])
    del a
    b = meta(512)
    ledger.see(b)
    assert ledger.total == 512, "a new storage at the same place counts"


def test_labels_move_bytes_between_kinds():
    ledger = Ledger()
    a = meta(512)
    ledger.see(a)
    ledger.label([a, None], "weights")
    assert (ledger.live["weights"], ledger.live["temporary"], ledger.total) == (512, 0, 512)


def test_streams_wait_for_each_other_and_share_the_units():
    clock = Clock()
    side = Lane(clock, "side")
    clock.work(2.0, "products")
    made = clock.compute.record()
    with side:
        side.wait(made)
        clock.transfer(3.0, 0.5)
        done = side.record()
    assert clock.compute.now == 2.5, "a transfer takes memory bandwidth from the compute stream"
    clock.work(1.0, "products")
    clock.compute.wait(done)
    assert clock.compute.now == done == 5.0
    with side:
        clock.work(1.0, "update")
    assert clock.compute.now == 6.0, "a kernel of a side stream takes its units"
    assert dict(clock.busy) == {"products": 3.0, "transfers": 0.5, "update": 1.0}
