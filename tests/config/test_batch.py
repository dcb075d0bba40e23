from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerokit.config.batch import Batch, resolve_batch
from zerokit.config.errors import ConfigError
from zerokit.config.schema import BatchConfig

SMALL = st.integers(1, 50)


@given(micro=SMALL, accumulation=SMALL, world=SMALL, given=st.sampled_from(["gma", "gm", "ga", "ma"]))
def test_any_two_parts_fix_the_third(micro, accumulation, world, given):
    whole = Batch(micro * accumulation * world, micro, accumulation)
    batch = BatchConfig(
        whole.global_ if "g" in given else None,
        micro if "m" in given else None,
        accumulation if "a" in given else None,
    )
    assert resolve_batch(batch, world) == whole


def test_one_part_means_no_accumulation():
    assert resolve_batch(BatchConfig(global_=12), 4) == Batch(12, 3, 1)
    assert resolve_batch(BatchConfig(micro=3), 4) == Batch(12, 3, 1)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (BatchConfig(accumulation=2), "give batch.global or batch.micro"),
        (BatchConfig(), "give batch.global or batch.micro"),
        (BatchConfig(global_=10, micro=2, accumulation=2), r"batch.global=10 .* 2 \* 2 \* 4 = 16"),
        (BatchConfig(global_=10), r"1 \* 4 = 4: the rest is 2. Try batch.global=8"),
        (BatchConfig(global_=2), r"1 \* 4 = 4: the rest is 2. Try batch.global=4"),
        (BatchConfig(global_=20, micro=2), r"micro \* processes = 2 \* 4 = 8: the rest is 4"),
        (BatchConfig(global_=20, accumulation=2), r"accumulation \* processes = 2 \* 4 = 8: the rest is 4"),
    ],
)
def test_what_does_not_divide_is_shown(batch, message):
    with pytest.raises(ConfigError, match=message):
        resolve_batch(batch, 4)
