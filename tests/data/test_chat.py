"""Conversations through chat templates: the text, and which of its tokens are learned."""

from __future__ import annotations

import pytest
import torch

from tests.data.documents import jsonl, make
from tests.data.tokenizers import decoder
from zerokit.config.errors import ConfigError

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello, who are you?"},
    {"role": "assistant", "content": "  A program.  "},
    {"role": "user", "content": "A program."},
    {"role": "assistant", "content": "A program."},
]
DIALOGUE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
)
"""As Qwen3's: the last turn has what the same turn would not have earlier."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tokenizers with a chat template and without one."""
    root = tmp_path_factory.mktemp("tokenizers")
    return {"chatml": str(decoder(root / "with")), "none": str(decoder(root / "without", template=None, bos=True))}


def shown(source, tokens: list[int]) -> str:
    """The text of tokens with the special ones."""
    backend = getattr(source.tokenizer, "_backend", None)
    return bytes(tokens).decode() if backend is None else backend.decode(tokens, skip_special_tokens=False)


def learned(source) -> str:
    """The text of the first row's targets; pieces that are apart are divided by |."""
    pieces: list[list[int]] = []
    before = -100
    for token in source.batch(0, len(source))["labels"][0].tolist():
        if token >= 0:
            pieces += [[]] * (before < 0)
            pieces[-1] = [*pieces[-1], token]
        before = token
    return "|".join(shown(source, piece) for piece in pieces)


def whole(source) -> str:
    """The text of the first row."""
    batch = source.batch(0, 1)
    return shown(source, batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist())


def chat(tmp_path, rows, tokenizer="bytes", **options):
    path = jsonl(tmp_path / "chats.jsonl", rows)
    return make(
        "chat", path, tokenizer=tokenizer, **{"seq_len": 400, "packing": "none", "held_out_percent": 0} | options
    )


@pytest.mark.parametrize("row", [
    {"messages": TALK},
    {"conversations": [{"from": {"user": "human", "assistant": "gpt"}.get(m["role"], m["role"]), "value": m["content"]}
                       for m in TALK]},
    {"prompt": TALK[:-1], "completion": TALK[-1:]},
])  # fmt: skip
def test_what_the_assistant_says_is_learned_with_the_mark_that_ends_it(tmp_path, folders, row):
    source = chat(tmp_path, [row], folders["chatml"])
    assert whole(source) == "".join(f"<|im_start|>{m['role']}\n{m['content'].strip()}<|im_end|>\n" for m in TALK)
    assert learned(source) == "A program.<|im_end|>|A program.<|im_end|>"


def test_everything_is_learned_if_asked_for(tmp_path, folders):
    source = chat(tmp_path, [{"messages": TALK}], folders["chatml"], train_on="all")
    assert learned(source) == whole(source).removeprefix("<|im_start|>")


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("chatml", "Yes.<|im_end|>"),
        ("llama3", "Yes.<|eot_id|>"),
        ("plain", "Yes.<|im_end|>\n"),
        (DIALOGUE, "Yes.<|im_end|>"),
        (THINKING, "Yes.<|im_end|>"),
    ],
)
def test_templates_by_name_and_by_file_serve_a_tokenizer_without_one(tmp_path, folders, template, wanted):
    if "{" in template:
        file = tmp_path / "own.jinja"
        file.write_text(template)
        template = str(file)
    row = {"prompt": "Yes. Yes", "completion": "Yes."}
    source = chat(tmp_path, [row], folders["none"], template=template)
    assert learned(source).lstrip() == wanted and "Yes. Yes" in whole(source)


def test_an_earlier_turn_that_a_template_writes_in_another_way_is_found(tmp_path, folders):
    (tmp_path / "own.jinja").write_text(THINKING)
    source = chat(tmp_path, [{"messages": TALK[1:]}], folders["none"], template=str(tmp_path / "own.jinja"))
    assert learned(source) == "  A program.  <|im_end|>|A program.<|im_end|>"


def test_bytes_serve_too(tmp_path):
    source = chat(tmp_path, [{"prompt": "é", "completion": "ü"}], template="chatml")
    assert whole(source) == "<|im_start|>user\né<|im_end|>\n<|im_start|>assistant\nü<|im_end|>\n"
    assert learned(source) == "ü<|im_end|>"


def test_packed_conversations_are_cut_and_counted(tmp_path, folders):
    rows = [{"prompt": "Hello", "completion": "yes " * count} for count in (2, 3, 200, 4)]
    source = chat(tmp_path, rows, folders["chatml"], packing="apart", seq_len=128)
    assert "1 documents longer than 128 tokens cut" in source.info.description and source.info.bytes_per_token is None
    batch = source.batch(0, len(source))
    assert len(source) == 2 and sorted(batch) == ["input_ids", "labels", "position_ids"]
    assert sorted((batch["position_ids"] == 0).sum(1).tolist())[-1] >= 3


BAD = [
    ({"text": "x"}, "expected 'messages' [{'role': …, 'content': …}, …], or 'prompt' and 'completion'; got 'text'"),
    ({"messages": []}, "expected a list of messages, got an empty one"),
    ({"messages": "x"}, "expected a list of messages, got str"),
    ({"messages": [{"content": "x"}]}, "expected a role in message 1, got"),
    (
        {"messages": [TALK[1], {"role": "assistant", "content": " "}]},
        "expected text as the content of message 2 (assist",
    ),
    (
        {"messages": [TALK[1], {"role": "assistant"}]},
        "expected text as the content of message 2 (assistant), got 'None'",
    ),
    ({"messages": TALK[:2]}, "expected a message of the assistant, which is what is learned (data.train_on=all learns"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_conversation_is_told_with_file_and_line_or_left_out(tmp_path, row, message):
    rows = [{"messages": TALK}, row, {"messages": TALK}]
    with pytest.raises(ConfigError) as error:
        chat(tmp_path, rows, template="plain")
    assert str(error.value).startswith(f"{tmp_path}/chats.jsonl:2: {message}")
    source = chat(tmp_path, rows, template="plain", on_bad="skip")
    assert "1 bad rows left out" in source.info.description and len(source) == 2


def test_what_a_template_refuses_or_changes_is_told(tmp_path, folders):
    refuse, change, broken = (tmp_path / f"{name}.jinja" for name in ("refuse", "change", "broken"))
    refuse.write_text("{{ raise_exception('roles must alternate') }}")
    change.write_text("{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    broken.write_text("{% for m in %}")
    for file, message in (
        (refuse, "chats.jsonl:1: the chat template refuses it: roles must alternate"),
        (change, "chats.jsonl:1: the chat template changes what the assistant says in message 3"),
        (broken, "data.template: line 1 is no Jinja"),
    ):
        with pytest.raises(ConfigError, match=message):
            chat(tmp_path, [{"messages": TALK}], folders["none"], template=str(file))
    with pytest.raises(ConfigError, match="has no chat template; choose one of chatml, llama3, plain, or give a Jinja"):
        chat(tmp_path, [{"messages": TALK}], folders["none"])
    with pytest.raises(ConfigError, match="no template or file 'chatm'. Did you mean chatml?"):
        chat(tmp_path, [{"messages": TALK}], template="chatm")


def test_masks_are_those_of_transformers_where_the_template_says_them(tmp_path, folders):
    from transformers import PreTrainedTokenizerFast

    from zerokit.data._templates import TEMPLATES

    theirs = PreTrainedTokenizerFast.from_pretrained(folders["none"])
    talk = [{**message, "content": message["content"].strip()} for message in TALK]
    for name, template in TEMPLATES.items():
        wanted = theirs.apply_chat_template(
            talk, chat_template=template, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
        )
        batch = chat(tmp_path, [{"messages": talk}], folders["none"], template=name).batch(0, 1)
        kept = batch["attention_mask"][0].bool()
        assert batch["input_ids"][0][kept].tolist() == wanted["input_ids"], name
        mine = (batch["labels"][0][kept] >= 0).int()
        assert torch.equal(mine, torch.tensor(wanted["assistant_masks"], dtype=torch.int32)), name
