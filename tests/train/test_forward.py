"""Models called with mappings: by the names of their forward, with the loss of the model or of the data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.infos import token_info
from tests.ranks import run_ranks
from zerokit.comm import Communicator
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice, build, options_type
from zerokit.train.forward import loss_function
from zerokit.train.objective import Objective
from zerokit.zero.engine import Engine

VOCABULARY = 11


def engine(module: nn.Module, **options) -> Engine:
    return Engine(module, build("optimizer", Choice("sgd", options_type("optimizer", "sgd")())), **options)


class Logits(nn.Sequential):
    """Logits alone, as a mapping or plain; notes what it was given."""

    def __init__(self, wrap=lambda logits: logits):
        super().__init__(nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY))
        self.wrap = wrap

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None):
        self.mask = attention_mask
        return self.wrap(super().forward(input_ids))


class Own(Logits):
    """The loss under its name, for models with one."""

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **others):
        loss = F.cross_entropy(nn.Sequential.forward(self, input_ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return self.wrap(loss)


def batch() -> tuple[dict[str, Tensor], Tensor]:
    ids = torch.randint(VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids}, ids.masked_fill(ids < 3, -100)


def refuse(*_):
    raise AssertionError("the other loss was wanted")


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"loss": v}, lambda v: SimpleNamespace(loss=v)])
def test_a_model_that_takes_labels_has_its_own_loss(wrap):
    torch.manual_seed(0)
    model, (inputs, labels) = Own(), batch()
    wanted = model(**inputs, labels=labels).item()
    model.wrap = wrap
    assert loss_function(engine(model), SimpleNamespace(loss=refuse))(inputs, labels).item() == pytest.approx(wanted)


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"logits": v}, lambda v: SimpleNamespace(logits=v)])
def test_another_one_gets_the_loss_of_the_data_on_its_logits(wrap):
    inputs, labels = batch()
    inputs["attention_mask"] = torch.ones_like(labels)
    made = engine(Logits(wrap))
    loss = loss_function(made, SimpleNamespace(loss=lambda logits, targets: logits.sum() * len(targets)))
    assert loss(inputs, labels).shape == () and made.module.mask is inputs["attention_mask"]


def test_what_a_forward_does_not_take_is_an_error_and_so_is_no_loss():
    inputs, labels = batch()
    with pytest.raises(ConfigError, match="has position_ids, which the forward of Logits does not take; it takes inp"):
        loss_function(engine(Logits()), None)({**inputs, "position_ids": labels}, labels)
    with pytest.raises(ConfigError, match="returned no loss, but dict"):
        loss_function(engine(Own(lambda loss: {})), None)(inputs, labels)


def test_the_first_label_of_a_row_counts_only_where_the_model_does_not_shift():
    inputs, labels = {"input_ids": torch.zeros(2, 3)}, torch.tensor([[1, 2, -100], [-100, -100, 4]])
    for shifts, wanted in ((True, 2), (False, 3)):
        objective = Objective(lambda *_: torch.tensor(1.0), token_info(3, 5), shifts=shifts)
        assert objective(inputs, labels)[1] == wanted
    assert objective(inputs["input_ids"], labels)[1] == 3


def _losses(stage: int) -> list[float]:
    """Losses of three steps of packed documents, and of the same as rows of their own."""
    comm, generator, found = Communicator(torch.device("cpu")), torch.Generator().manual_seed(7), []
    documents = torch.randint(VOCABULARY, (2, 6), generator=generator)
    labels = documents.clone()
    labels[:, 0] = -100
    places = torch.arange(6).repeat(2)[None]
    packed = {"input_ids": documents.view(1, 12), "position_ids": places}, labels.view(1, 12)
    for inputs, targets in (packed, ({"input_ids": documents}, labels)):
        torch.manual_seed(0)
        options = options_type("model", "gpt")(dim=16, layers=2, heads=2)
        model = build("model", Choice("gpt", options), data=token_info(12, VOCABULARY))
        made = engine(model, stage=stage, comm=comm, min_unit=0)
        made.set_lr(0.1)
        objective = Objective(loss_function(made, None), token_info(12, VOCABULARY), shifts=True)
        for _ in range(3):
            loss, count = objective(inputs, targets)
            made.backward(loss, tokens=count)
            made.step()
            found.append(loss.item())
    return found


@pytest.mark.parametrize("stage", [0, 3])
def test_packed_documents_train_as_documents_of_their_own_on_two_ranks(stage):
    for losses in run_ranks(_losses, 2, stage):
        assert losses[:3] == pytest.approx(losses[3:], rel=1e-5) and losses[2] < losses[0]
