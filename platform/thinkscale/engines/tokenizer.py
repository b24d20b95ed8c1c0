"""A model's own tokenizer and chat template (transformers), as `thinking.formats.Tokenizer`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinkscale.domain.generation import TokenIds
from thinkscale.forcing.formats import ThinkingFormat


class ModelTokenizer:
    """The tokenizer in a local model directory."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        # Ids may have gaps: the largest counts, not how many there are.
        self.vocab_size: int = 1 + max(self._tokenizer.get_vocab().values())
        self.chat_template = str(self._tokenizer.chat_template or "")
        self.eos_ids: TokenIds = _eos_ids(directory, self._tokenizer)
        self._special: dict[str, int] = {
            str(token): i for i, token in self._tokenizer.added_tokens_decoder.items() if token.special
        } | {token: int(self._tokenizer.get_vocab()[token]) for token in self._tokenizer.all_special_tokens}
        for word in ("<think>", "</think>"):  # added, but in some families not flagged as special
            if word in self._tokenizer.get_added_vocab():
                self._special[word] = self._tokenizer.get_added_vocab()[word]
        self._special_ids = frozenset(self._special.values())

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def special_id(self, text: str) -> int | None:
        return self._special.get(text)

    def prompt_ids(self, question: str, thinking_format: ThinkingFormat | None, system: str | None = None) -> TokenIds:
        """The chat template with the question and the assistant header, then the start of thinking, if any."""
        messages = [{"role": "system", "content": system}] if system else []
        return self.chat_ids([*messages, {"role": "user", "content": question}], thinking_format)

    def chat_ids(self, messages: Sequence[Mapping[str, str]], thinking_format: ThinkingFormat | None) -> TokenIds:
        """The chat template with `messages` (role and content) and the assistant header, then the start of thinking.

        Raises ValueError where the template refuses the messages.
        """
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses these messages: {error}") from error
        if thinking_format is not None and not text.endswith(thinking_format.start):
            text += thinking_format.start
        return tuple(self.encode(text))

    def visible(self, ids: Sequence[int]) -> list[int]:
        """The ids that are no special tokens."""
        return [i for i in ids if i not in self._special_ids]


class TextStream:
    """The text of ids that come a few at a time, never cut within a character. Special tokens are left out."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = self._told = 0
        """Positions in ids: where decoding begins (a token's text may depend on its neighbour), and up to where
        the text has been given out."""

    def push(self, ids: Sequence[int]) -> str:
        """The text that these ids complete."""
        self._ids += self._tokenizer.visible(ids)
        text = self._pending()
        return "" if text.endswith("\ufffd") else self._give_out(text)

    def end(self) -> str:
        """What is left, an incomplete character as the replacement character."""
        return self._give_out(self._pending())

    def _pending(self) -> str:
        before = self._tokenizer.decode(self._ids[self._context : self._told])
        return self._tokenizer.decode(self._ids[self._context :])[len(before) :]

    def _give_out(self, text: str) -> str:
        if text:
            self._context, self._told = self._told, len(self._ids)
        return text


def _eos_ids(directory: Path, tokenizer: Any) -> TokenIds:
    """End-of-text ids of the generation config and the tokenizer."""
    ids = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        value = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
        ids += value if isinstance(value, list) else [] if value is None else [value]
    return tuple(dict.fromkeys(ids))
