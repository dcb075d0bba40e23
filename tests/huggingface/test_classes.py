"""Classes: their names, the output layer they need, and decoders that tell them apart."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

import transformers as hf

from tests.config.arguments import config
from tests.huggingface.folders import CLASSES, CLASSIFIER, info, rows, save
from tests.huggingface.models import DECODER
from zerokit.comm import Communicator
from zerokit.config.errors import ConfigError
from zerokit.train.assemble import assemble, build_model

WORDS = ("model=hf", "model.task=classification", "data=rows_of_tests", "data.task=classification", "tracker=none",
         "batch.global=4", "train.steps=2")  # fmt: skip
NAMES = ("bad", "fair", "good")


def test_a_model_gets_the_names_of_the_data_and_says_which_it_knew(tmp_path, caplog):
    made = hf.BertConfig(**{**CLASSIFIER, "id2label": {0: "good", 1: "fair", 2: "bad"}})
    hf.BertForSequenceClassification(made).save_pretrained(tmp_path)
    named = replace(info("classification"), classes=NAMES)
    with caplog.at_level(logging.WARNING):
        model = build_model(config(*WORDS, f"model.path={tmp_path}"), named)
    assert model.config.label2id == {"bad": 0, "fair": 1, "good": 2}
    assert "the model knows the classes good, fair, bad, and the data have bad, fair, good" in caplog.text
    kept = build_model(config(*WORDS, f"model.path={tmp_path}"), info("classification"))
    assert kept.config.id2label == {0: "good", 1: "fair", 2: "bad"}, "numbers have no names of their own"


def test_another_number_of_classes_needs_another_output_layer_alone(tmp_path):
    cfg = config(*WORDS, f"model.path={save('classifier', tmp_path)}")
    model = build_model(cfg, replace(info("classification"), out_features=CLASSES + 2))
    new = [name for name, parameter in model.named_parameters() if parameter not in model.stored_weights]
    assert new == ["classifier.weight", "classifier.bias"] and len(model.classifier.weight) == CLASSES + 2
    with pytest.raises(ConfigError, match="needs at least two classes"):
        build_model(cfg, replace(info("classification"), out_features=1))


def test_a_decoder_without_a_padding_token_takes_that_of_the_data(tmp_path):
    made = hf.LlamaForSequenceClassification(hf.LlamaConfig(**{**DECODER, "pad_token_id": None}, num_labels=CLASSES))
    made.save_pretrained(tmp_path)
    trainer = assemble(config(*WORDS, f"model.path={tmp_path}"), Communicator(torch.device("cpu")))
    made.config.pad_token_id = 0
    batch = {name: values[:4] for name, values in rows("classification").items()}
    found = [metrics["train/loss"] for _, metrics in trainer.fit()]
    assert found[0] == pytest.approx(made(**batch).loss.item(), abs=1e-6) and "eval/loss" not in trainer.evaluate()
