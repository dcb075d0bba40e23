from __future__ import annotations

import pytest
from torch import nn

from zerokit.train.trainer import evaluating


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_every_module_gets_its_mode_back_also_after_an_error(error):
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    model[1].eval()
    before = [module.training for module in model.modules()]
    try:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            if error is not None:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    assert [module.training for module in model.modules()] == before
