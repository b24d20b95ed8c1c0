"""A model's own tokenizer and chat template, as `forcing.formats.Tokenizer`.
The ids are those that the model's `tokenizer.json` gives: loaders that rebuild a tokenizer from its class get some
families wrong without a word. Owns the check that text survives, and that no text of a user becomes a control token."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from thinkscale.domain.generation import TokenIds
from thinkscale.engines.template import BUILT_IN, ChatTemplate, Messages, read_json, template_text
from thinkscale.forcing.formats import MARKUP, ThinkingFormat, behind, control_cuts, native_format, split_thinking

TEMPLATE_DATE = "2025-01-01"  # what templates take for today, so that prompts are the same after midnight
PROBE = "We need to add 9 and 6,\n\nso 15.\tIt's café naïve – 1234567 = π? 你好,世界 🙂\n  def f(x):\n\treturn x**2\n"
"""A text that must survive, with what loaders get wrong: spaces, newlines, tabs, accents, digits, other scripts."""
CONTROL = re.compile(r"<.*\|.*>|<｜.*｜>|</?(?:seed:)?think>|</?tool\w*>|\[/?THINK\]", re.DOTALL)
"""Added tokens that are for control though their files do not flag them as special."""
_CUT = "\ufdd0"  # stands in messages where control tokens must be cut; a code point that is no character


class TokenizerError(ValueError):
    """A tokenizer that cannot be trusted or is not there; the message names the model."""


class ModelTokenizer:
    def __init__(self, directory: Path, *, date: str = TEMPLATE_DATE, strict: bool = True) -> None:
        """`date`: what the chat template takes for today. `strict`: refuse a tokenizer through which text does not
        survive. Raises TokenizerError where there is no tokenizer, or one that is refused."""
        directory = Path(directory)
        self._tokenizer = _load(directory)
        config = read_json(directory / "tokenizer_config.json")
        names = {**read_json(directory / "special_tokens_map.json"), **config}
        given = {name: value.get("content") if isinstance(value, dict) else value for name, value in names.items()}
        tokens = {name: token for name, token in given.items() if name.endswith("_token") and isinstance(token, str)}
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        # Ids may have gaps: the largest counts, not how many there are.
        self.vocab_size: int = 1 + max(vocabulary.values())
        added = self._tokenizer.get_added_tokens_decoder()
        named = {token for token in tokens.values() if token in vocabulary}
        self._special = {
            token.content: i for i, token in added.items() if token.special or CONTROL.fullmatch(token.content)
        } | {token: vocabulary[token] for token in named}
        self._special_ids = frozenset(self._special.values())
        own = template_text(directory, config)
        self.chat_template = own or next((t for named, t in BUILT_IN.items() if {*named} <= self._special.keys()), "")
        self.has_own_template = bool(own)
        self.template = ChatTemplate(self.chat_template, tokens, date)
        self._name = directory.name
        tuned = config.get("thinking_format")
        self.tuned_format = None if tuned is None else ThinkingFormat(**tuned)
        self.eos_ids: TokenIds = self._find_eos(directory, tokens.get("eos_token"))
        if strict and not self.survives:
            raise TokenizerError(
                f"{self._name}: text does not survive the tokenizer: {PROBE!r} comes back as "
                f"{self.decode(self.encode(PROBE))!r}"
            )

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def special_id(self, text: str) -> int | None:
        return self._special.get(text)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that an id adds to a text, none for a control token."""
        piece = "" if token in self._special_ids else self._tokenizer.id_to_token(token) or ""
        if self._is_byte_level and all(letter in _byte_letters() for letter in piece):
            return bytes(_byte_letters()[letter] for letter in piece)
        if found := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
            return bytes([int(found[1], 16)])
        return piece.replace("▁", " ").encode()

    def save_plain(self, directory: Path) -> None:
        """Write files from which loaders take this tokenizer as it is, without the class that it names."""
        self._tokenizer.save(str(directory / "tokenizer.json"))
        eos = {"eos_token": self._tokenizer.id_to_token(self.eos_ids[0])} if self.eos_ids else {}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **eos}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))

    @cached_property
    def _is_byte_level(self) -> bool:
        return "ByteLevel" in str(self._tokenizer.decoder)

    @property
    def survives(self) -> bool:
        """Whether a text comes back as it was, but for the composition of accents."""
        return _composed(self.decode(behind(self, PROBE))) == _composed(PROBE)

    @property
    def ids_hash(self) -> str:
        """16 hex digits of the ids of a fixed text, for the record."""
        return hashlib.sha256(repr(self.encode(PROBE)).encode()).hexdigest()[:16]

    @cached_property
    def template_hash(self) -> str:
        """16 hex digits of the rendered chat template, its day included."""
        return hashlib.sha256(self.template.probe().encode()).hexdigest()[:16] if self.chat_template else ""

    @cached_property
    def native_format(self) -> ThinkingFormat | None:
        """How the model was trained to think, where tokenizer or template tell."""
        return native_format(self) if self.chat_template else None

    @lru_cache(maxsize=16)  # noqa: B019 - a process holds few tokenizers, and to its end
    def fitted(self, thinking_format: ThinkingFormat) -> ThinkingFormat:
        """The format with the white space that the chat template has around its delimiters."""
        self._require_template()
        return self.template.fitted(thinking_format)

    def prompt_ids(self, question: str, thinking_format: ThinkingFormat | None, system: str | None = None) -> TokenIds:
        return self.chat_ids(_messages(question, system), thinking_format)

    def chat_ids(
        self,
        messages: Messages,
        thinking_format: ThinkingFormat | None,
        *,
        thinking: bool = True,
        effort: str | None = None,
    ) -> TokenIds:
        """The chat template with `messages` (role and content), the assistant header, and one opening of thinking.
        `thinking_format`: None: without thinking, which a model that was trained to think is kept from. `thinking`:
        False: without thinking in this format. Raises ValueError where the template refuses the messages."""
        self._require_template()
        guarded = [self._guarded(message) for message in messages]
        if thinking_format is None or not thinking:
            text = self.template.without_thinking(guarded, thinking_format or self.native_format, effort)
        else:
            text = self.template.thinking(guarded, thinking_format, effort)
        return self._uncut(text)

    def question_ids(self, question: str, thinking_format: ThinkingFormat, system: str | None = None) -> TokenIds:
        """The prompt of one question before its opening of thinking; with it where the template itself opens."""
        self._require_template()
        guarded = [self._guarded(message) for message in _messages(question, system)]
        head, opening = self.template.opened(self.template.render(guarded, thinking=True), thinking_format)
        return self._uncut(head + opening)

    def visible(self, ids: Sequence[int]) -> list[int]:
        """The ids that are no control tokens."""
        return [i for i in ids if i not in self._special_ids]

    def _require_template(self) -> None:
        if not self.chat_template:
            raise TokenizerError(f"{self._name} has no chat template: take the model's instruction-tuned version")

    def _guarded(self, message: Mapping[str, str]) -> dict[str, str]:
        """A message in which control tokens are marked as text. Earlier thinking is left out of what was answered."""
        content = message["content"].replace(_CUT, "")
        if message["role"] == "assistant" and (parts := split_thinking(content)) is not None:
            content = parts[1]
        cuts = control_cuts(self, content)
        pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        return {**message, "content": _CUT.join(pieces)}

    def _uncut(self, text: str) -> TokenIds:
        first, *rest = text.split(_CUT)
        return (*self.encode(first), *(i for piece in rest for i in behind(self, piece)))

    def _find_eos(self, directory: Path, eos_token: str | None) -> TokenIds:
        """What ends the assistant's turn in the template, then the end-of-text ids of tokenizer and configs."""
        ids: list[int] = []
        behind_answer = self.template.turn_end().lstrip() if self.chat_template else ""
        if (found := MARKUP.match(behind_answer)) and (turn_end := self.special_id(found[0])) is not None:
            ids.append(turn_end)
        if eos_token is not None and (token := self._tokenizer.token_to_id(eos_token)) is not None:
            ids.append(token)
        for name in ("generation_config.json", "config.json"):
            config = read_json(directory / name)
            value = config.get("eos_token_id", config.get("text_config", {}).get("eos_token_id"))
            ids += value if isinstance(value, list) else [] if value is None else [value]
        return tuple(dict.fromkeys(ids))


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


def _messages(question: str, system: str | None) -> Messages:
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": question}]


def _load(directory: Path) -> Any:
    from tokenizers import Tokenizer

    if (path := directory / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(path))
    else:  # older files, which transformers turns into one
        from transformers import AutoTokenizer

        try:
            found = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
            loaded: Any = getattr(found, "backend_tokenizer", None)
        except (OSError, ValueError, ImportError) as error:
            raise TokenizerError(f"{directory.name} has no tokenizer.json and no other tokenizer: {error}") from error
        if not isinstance(loaded, Tokenizer):
            raise TokenizerError(f"{directory.name} has no tokenizer.json: save its fast tokenizer there")
        tokenizer = loaded
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@lru_cache(maxsize=1)
def _byte_letters() -> dict[str, int]:
    """The byte of each letter of a byte-level vocabulary."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
