"""The tokenizer: a byte-level BPE of 2,048 tokens, and the way from a conversation to token ids.

A capitalised word never carries the space before it, so that a name has the same tokens after a
space, a quote or a line break: that makes copying easy. Digits stand alone: that makes sums easy.
Scripts and emoji that the merges do not cover stay bytes, so a character can be spread over
several tokens.
"""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import jinja2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from demo.conversation import Conversation, Message, Tool

VOCAB_SIZE = 2048
CONTEXT = 4096
TEMPLATE = Path(__file__).parent / "chat_template.jinja"

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Never part of the text that a user sees."""
MARKERS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
)
"""One token each, but text all the same."""

WORDS = r" ?[a-z]+|[A-Z][a-z]+|[A-Z]{1,8}|[0-9]| ?[^\sA-Za-z0-9]+|\s+"


class Template:
    """The chat template, rendered as the servers do it."""

    def __init__(self) -> None:
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self._template = environment.from_string(TEMPLATE.read_text())

    def render(
        self,
        messages: list[Message],
        tools: list[Tool],
        generate: bool = False,
        thinking: bool = True,
    ) -> str:
        return self._template.render(
            messages=messages,
            tools=tools or None,
            add_generation_prompt=generate,
            enable_thinking=thinking,
        )


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn the merges from texts without special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = len(SPECIAL) + len(MARKERS)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKERS])
    return tokenizer


def texts_of(conversation: Conversation) -> Iterable[str]:
    """The words of a conversation, for the tokenizer to learn from."""
    yield from (json.dumps(tool, ensure_ascii=False) for tool in conversation.tools)
    for message in conversation.messages:
        yield message["role"]
        yield message["content"]
        yield message.get("reasoning_content", "")
        yield from (
            json.dumps(call["function"], ensure_ascii=False)
            for call in message.get("tool_calls", ())
        )


class Encoder:
    """Turns conversations into token ids and knows which of them the model must learn to write."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.template = Template()

    def __call__(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """Token ids, and for each whether it is the assistant's own."""
        ids = self.tokenizer.encode(
            self.template.render(conversation.messages, conversation.tools)
        ).ids
        return ids, self.learned(ids)

    @cached_property
    def _header(self) -> list[int]:
        return self.tokenizer.encode("<|im_start|>assistant\n").ids

    @cached_property
    def _no_thought(self) -> list[int]:
        return self.tokenizer.encode("<think>\n\n</think>\n\n").ids

    @cached_property
    def _end(self) -> int:
        return self._id("<|im_end|>")

    def _id(self, token: str) -> int:
        token_id = self.tokenizer.token_to_id(token)
        assert token_id is not None
        return token_id

    def learned(self, ids: list[int]) -> list[bool]:
        """True for what follows an assistant header (and an empty thought), to the end of it."""
        learned = [False] * len(ids)
        position = 0
        while (start := self._find(ids, position)) is not None:
            begin = start + len(self._header)
            if ids[begin : begin + len(self._no_thought)] == self._no_thought:
                begin += len(self._no_thought)
            position = ids.index(self._end, begin) + 1
            learned[begin:position] = [True] * (position - begin)
        return learned

    def _find(self, ids: list[int], position: int) -> int | None:
        """Where the next assistant header begins."""
        while True:
            try:
                position = ids.index(self._header[0], position)
            except ValueError:
                return None
            if ids[position : position + len(self._header)] == self._header:
                return position
            position += 1


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write what transformers reads: tokenizer.json, its configuration and the chat template."""
    tokenizer.save(str(folder / "tokenizer.json"))
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "chat_template": TEMPLATE.read_text(),
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(configuration, indent=1, ensure_ascii=False) + "\n"
    )
