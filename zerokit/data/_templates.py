"""Chat templates by name, and the text of a conversation by one (Jinja, as Hugging Face has them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zerokit.config.errors import ConfigError, suggestion
from zerokit.data._tokenizer import NEEDS_EXTRA, Tokenizer

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "{{ bos_token or '' }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|eot_id|>{% endgeneration %}"
        "{% else %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "plain": (
        "{{ bos_token or '' }}{% for m in messages %}{{ m.role }}: "
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token or '' }}\n{% endgeneration %}"
        "{% else %}{{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    ),
}
"""Those that a tokenizer without one may take. ChatML: OpenAI, 2023. Llama 3: Meta, 2024, without its trimming."""


def template_of(given: str | None, tokenizer: Tokenizer, named: str) -> str:
    """The template that `data.template` names, or that of the tokenizer.

    named: the tokenizer, as it was given.

    Raises:
        ConfigError: there is none.
    """
    names = ", ".join(TEMPLATES)
    if given in TEMPLATES:
        return TEMPLATES[given]
    if given is not None:
        file = Path(given).expanduser()
        if not file.is_file():
            raise ConfigError(
                f"data.template: there is no template or file '{given}'.{suggestion(given, TEMPLATES)} "
                f"Templates: {names}."
            )
        return file.read_text(encoding="utf-8")
    if tokenizer.template is None:
        raise ConfigError(
            f"data.template: the tokenizer {named} has no chat template; choose one of {names}, or give a Jinja file."
        )
    return tokenizer.template


def render(messages: list[dict[str, Any]], template: str, names: dict[str, str], prompt: bool = False
           ) -> tuple[str, list[tuple[int, int]]]:  # fmt: skip
    """The text of a conversation, and from which to which character the template says that the assistant speaks.

    names: of special tokens. prompt: end with what the assistant's turn begins with.

    Raises:
        ConfigError: the template cannot be read. ValueError: it refuses the conversation.
    """
    try:
        from jinja2.exceptions import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template
    except ImportError as error:
        raise ConfigError(NEEDS_EXTRA.format(what="data=chat")) from error
    try:
        texts, spans = render_jinja_template(
            conversations=[messages], chat_template=template, return_assistant_tokens_mask="generation" in template,
            add_generation_prompt=prompt, **names,
        )  # fmt: skip
    except TemplateSyntaxError as error:
        raise ConfigError(f"data.template: line {error.lineno} is no Jinja: {error.message}.") from error
    except (TemplateError, TypeError) as error:
        raise ValueError(f"the chat template refuses it: {error}") from error
    return texts[0], [tuple(span) for span in spans[0]] if spans else []
