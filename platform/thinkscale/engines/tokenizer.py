"""A model's own tokenizer and chat template (transformers), as `thinking.formats.Tokenizer`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinkscale.domain.generation import TokenIds
from thinkscale.thinking.formats import ThinkingFormat


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

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def special_id(self, text: str) -> int | None:
        return self._special.get(text)

    def prompt_ids(self, question: str, thinking_format: ThinkingFormat | None, system: str | None = None) -> TokenIds:
        """The chat template with the question and the assistant header, then the start of thinking, if any."""
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if thinking_format is not None and not text.endswith(thinking_format.start):
            text += thinking_format.start
        return tuple(self.encode(text))


def _eos_ids(directory: Path, tokenizer: Any) -> TokenIds:
    """End-of-text ids of the generation config and the tokenizer."""
    ids = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        value = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
        ids += value if isinstance(value, list) else [] if value is None else [value]
    return tuple(dict.fromkeys(ids))
