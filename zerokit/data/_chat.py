"""Conversations as documents: the text by the template, and which of its tokens are learned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from os.path import commonprefix
from pathlib import Path
from typing import Any

from zerokit.data._documents import DocumentSource, build_documents
from zerokit.data._extract import documents
from zerokit.data._reading import BadRow
from zerokit.data._store import Document, Tally
from zerokit.data._templates import render, template_of
from zerokit.data._tokenizer import Tokenizer, load_tokenizer

SHAREGPT = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant"}
OTHER = ("\x02", "\x03")
"""What takes the place of a turn's text to see where it stands: two, as one could be how it begins or ends."""


def build(options, seed: int) -> DocumentSource:
    """Source of conversations, of which the assistant's part is learned, or all."""
    template = template_of(options.template, load_tokenizer(options.tokenizer), options.tokenizer)
    read = partial(_read, options, template)
    masked = options.train_on == "assistant"
    source = build_documents("chat", options, seed, read, masked=masked, template=template)
    source.template = template
    return source


def _read(options, template: str, files: list[tuple[Path, str | None]], tokenizer: Tokenizer, tally: Tally) -> Iterator:
    def extract(values: dict[str, Any]) -> Document:
        found = messages(values)
        try:
            return document(found, template, tokenizer, options.train_on == "assistant")
        except BadRow:
            raise
        except ValueError as error:
            raise BadRow(str(error)) from error

    return documents(files, tally, options.held_out_percent, extract, lambda found: [made for _, made in found])


def messages(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row: `messages` (role, content), `conversations` (from, value), or `prompt` and `completion`.

    Raises:
        BadRow: it has none, or one that is empty.
    """
    found = values.get("messages", values.get("conversations"))
    if found is None and "prompt" in values and "completion" in values:
        found = [*_turns(values["prompt"], "user"), *_turns(values["completion"], "assistant")]
    if found is None:
        raise BadRow(
            "expected 'messages' [{'role': …, 'content': …}, …], or 'prompt' and 'completion'; got "
            f"{', '.join(map(repr, values)) or 'no field'}"
        )
    if not isinstance(found, list) or not found:
        raise BadRow(f"expected a list of messages, got {'an empty one' if found == [] else type(found).__name__}")
    return [_message(number, message) for number, message in enumerate(found, 1)]


def _turns(given: Any, role: str) -> list[Any]:
    return given if isinstance(given, list) else [{"role": role, "content": given}]


def _message(number: int, given: Any) -> dict[str, Any]:
    if isinstance(given, dict) and "from" in given:
        given = {"role": SHAREGPT.get(given["from"], given["from"]), "content": given.get("value")}
    if not isinstance(given, dict) or not isinstance(given.get("role"), str):
        raise BadRow(f"expected a role in message {number}, got {str(given)[:60]!r}")
    content = given.get("content")
    if not isinstance(content, str) or not content.strip():
        raise BadRow(f"expected text as the content of message {number} ({given['role']}), got {str(content)[:40]!r}")
    return given


def document(found: list[dict[str, Any]], template: str, tokenizer: Tokenizer, assistant: bool) -> Document:
    """The tokens of a conversation, and whether each is learned; all are unless only the assistant's are.

    Raises:
        BadRow: the assistant says nothing. ValueError: the template refuses the conversation.
    """
    text, spans = render(found, template, tokenizer.names)
    tokens, places = tokenizer.encode_with_places(text)
    if not assistant:
        return Document(tokens)
    if not any(message["role"] == "assistant" for message in found):
        raise BadRow("expected a message of the assistant, which is what is learned (data.train_on=all learns all)")
    if "{% generation" not in template and "{%- generation" not in template:
        spans = turns(found, text, template, tokenizer)
    targets, span, rest = [], None, iter(spans)
    span = next(rest, None)
    for first, last in places:
        while span is not None and first >= span[1]:
            span = next(rest, None)
        targets.append(span is not None and last > span[0])
    if not any(targets):
        raise BadRow("expected something that the assistant says, but the chat template leaves it out")
    return Document(tokens, targets)


def turns(found: list[dict[str, Any]], text: str, template: str, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Where the assistant speaks in `text`, by a template that does not say so: where the text of each turn stands, and
    the special token that follows it.

    The text of a turn is what changes when it is another; around it nothing does.

    Raises:
        BadRow: more than that changes.
    """
    mark = re.compile(r"\s*(?:" + "|".join(map(re.escape, tokenizer.marks)) + ")") if tokenizer.marks else None
    spans = []
    for index, message in enumerate(found):
        if message["role"] != "assistant":
            continue
        pair = [text]
        for other in OTHER:
            changed = [*found[:index], {**message, "content": other}, *found[index + 1 :]]
            pair.append(render(changed, template, tokenizer.names)[0])
        start = min(len(commonprefix([text, each])) for each in pair[1:])
        end = len(text) - min(len(commonprefix([text[::-1], each[::-1]])) for each in pair[1:])
        if text[start:end] != message["content"].strip() and text[start:end] != message["content"]:
            raise BadRow(
                f"the chat template changes what the assistant says in message {index + 1}, so that what is learned "
                "cannot be told; give a template with {% generation %} by data.template=FILE, or data.train_on=all"
            )
        ending = mark.match(text, end) if mark else None
        spans.append((start, ending.end() if ending else end))
    return spans
