"""A tiny chat: a tokenizer that can call tools, scripted dialogues and their transcripts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import tiny
from tokenizers import decoders
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

IMAGE_TOKEN = "<image>"
# u:question<eos>a:[roll count=2]<eos>t:5;a:answer<eos>
CHAT_TEMPLATE = """
{%- macro text(content) -%}
  {%- if content is string -%}{{ content }}
  {%- else -%}
    {%- for part in content -%}
      {{- '<image>' if part.type == 'image' else part.text -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
  {%- if message.role == 'assistant' -%}
    {{- 'a:' + text(message.content) -}}
    {%- for call in message.tool_calls or [] -%}
      {{- '[' + call.function.name -}}
      {%- for key, value in call.function.arguments.items() -%}
        {{- ' ' + key + '=' + value|string -}}
      {%- endfor -%}
      {{- ']' -}}
    {%- endfor -%}
    {{- '<eos>' -}}
  {%- elif message.role == 'tool' -%}{{- 't:' + text(message.content) + ';' -}}
  {%- else -%}{{- 'u:' + text(message.content) + '<eos>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'a:' -}}{%- endif -%}
""".strip()
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "a:",
    "fields": {
        "tool_calls": {
            "open_pattern": r"\[(?P<name>\w+)",
            "close": "]",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"(?P<key>\w+)=(?P<value>\w+)"},
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": {"close": "<eos>", "content": "text"},
    },
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character and one for <image>; answers are parsed for tool calls."""
    made = tiny.tokenizer()
    made.backend_tokenizer.decoder = decoders.Fuse()  # no spaces between the characters
    made.add_tokens(list("[]:;_"))
    made.add_tokens([IMAGE_TOKEN], special_tokens=True)
    made.chat_template = CHAT_TEMPLATE
    made.response_template = RESPONSE_TEMPLATE
    return made


def model() -> Qwen2ForCausalLM:
    return tiny.model(vocab_size=len(tokenizer()))


def dice(results: list[str]) -> Callable[[int], str]:
    """A tool that rolls these numbers in turn."""
    rolled = itertools.cycle(results)

    # A text, because TRL tells the parser the tools' types from 1.16 on.
    def roll(count: str) -> str:
        """Rolls dice.

        Args:
            count: How many.
        """
        if count != "2":
            raise ValueError("The argument did not arrive as it was called.")
        return next(rolled)

    return roll


def in_order(dialogues: list[list[str]], first: int) -> list[str]:
    """Every second entry, in the order in which TRL asks for them: turn by turn."""
    turns = range(first, max(map(len, dialogues)), 2)
    return [dialogue[turn] for turn in turns for dialogue in dialogues if turn < len(dialogue)]


def script(trainer, texts: list[str]) -> None:
    """The model says these texts in turn, whatever it is asked."""
    said = itertools.cycle(texts)

    def generate(prompt_ids, *args, **kwargs):
        return [trainer._tokenizer(f"{next(said)}<eos>")["input_ids"] for _ in prompt_ids], None

    trainer._generate_single_turn = generate


def script_first_turn(trainer, texts: list[str]) -> None:
    """The model says these texts in turn, and what it will once a tool has answered."""
    sample = trainer._generate_single_turn
    script(trainer, texts)
    scripted = trainer._generate_single_turn

    def generate(prompt_ids, *args, **kwargs):
        answered = trainer._tokenizer.decode(prompt_ids[0]).endswith(";a:")
        return (sample if answered else scripted)(prompt_ids, *args, **kwargs)

    trainer._generate_single_turn = generate


def transcript(dialogue: list[str]) -> tuple[list[int], list[int]]:
    """Token ids of a completion, tool results included, and 1 where the model spoke."""
    encode = tokenizer()
    ids, policy = [], []
    for turn, text in enumerate(dialogue):
        new = encode(f"t:{text};a:" if turn % 2 else f"{text}<eos>")["input_ids"]
        ids += new
        policy += [1 - turn % 2] * len(new)
    return ids, policy
