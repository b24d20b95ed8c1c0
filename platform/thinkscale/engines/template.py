"""A model's chat template: what it makes of messages, and how it opens, ends and leaves out thinking.
Owns the rendering, on a fixed day, and what can be read off it. Knows no token ids."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from thinkscale.forcing.formats import FORMATS, HARMONY, ThinkingFormat

_HARMONY, _DEEPSEEK = (
    (resources.files("thinkscale.engines") / f"{name}.jinja").read_text("utf-8") for name in ("harmony", "deepseek")
)
BUILT_IN = {("<|channel|>", "<|message|>", "<|return|>"): _HARMONY, ("<｜User｜>", "<｜Assistant｜>"): _DEEPSEEK}
"""For tokenizers that come without a template: by the control tokens that the format has."""

Messages = Sequence[Mapping[str, Any]]
_QUESTION, _THOUGHT, _ANSWER = "Qu3stion", "Th0ught", "Answ3r"
_USER: Messages = ({"role": "user", "content": _QUESTION},)
_TURN: Messages = (
    *_USER,
    {"role": "assistant", "content": _ANSWER, "reasoning_content": _THOUGHT, "thinking": _THOUGHT},
)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of a model's directory, empty where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def template_text(directory: Path, config: Mapping[str, Any]) -> str:
    """The chat template of a model's directory, empty where it has none."""
    if (path := directory / "chat_template.jinja").exists():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    template = read_json(directory / "chat_template.json").get("chat_template") if template is None else template
    if isinstance(template, list):  # several by name
        named = {each["name"]: each["template"] for each in template}
        template = named.get("default") or next(iter(named.values()), None)
    return template or ""


class ChatTemplate:
    def __init__(self, text: str, tokens: Mapping[str, str], date: str) -> None:
        """`date`: the day, as 2025-01-31, that it takes for today."""
        self.text = text
        day = datetime.fromisoformat(date)
        self._settings = {**tokens, "strftime_now": day.strftime, "date_string": day.strftime("%d %b %Y")}
        formats = {each.opening: each for each in FORMATS.values()}
        block = "|".join(rf"{re.escape(o)}\s*(?:{re.escape(f.end)}\s*)?" for o, f in formats.items())
        ends = "|".join(re.escape(each.end) for each in FORMATS.values() if each is not HARMONY)
        self._tail = re.compile(rf"(?:{block})+\Z|(?:{ends})\s*\Z")

    def render(
        self, messages: Messages, *, thinking: bool | None = None, turn: bool = True, effort: str | None = None
    ) -> str:
        """The messages as the model reads them; a system prompt that the template drops goes before the first question.
        `thinking`: the template's own switch, where it has one; None: as it is by default. `turn`: with the assistant's
        header behind them. Raises ValueError where the template refuses the messages."""
        from jinja2 import TemplateError

        problem: Exception | None = None
        for asked in (messages, _merged(messages)) if messages[0]["role"] == "system" else (messages,):
            try:
                text = self._render(asked, thinking, turn, effort)
            except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
                problem = problem or error
                continue
            if asked is not messages or str(messages[0]["content"]).strip() in text:
                return text
        raise ValueError(f"the model's chat template refuses these messages: {problem}")

    def _render(self, messages: Messages, thinking: bool | None, turn: bool, effort: str | None) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        switch = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
        settings = {**self._settings, **switch, **({"reasoning_effort": effort} if effort else {})}
        given = [dict(message) for message in messages]
        render: Any = render_jinja_template
        ((text,), _) = render([given], chat_template=self.text, add_generation_prompt=turn, **settings)
        return str(text)

    @property
    def takes_effort(self) -> bool:
        return "reasoning_effort" in self.text

    @cached_property
    def has_switch(self) -> bool:
        """Whether thinking can be switched off."""
        return self.render(_USER, thinking=True) != self.render(_USER, thinking=False)

    def opened(self, text: str, thinking_format: ThinkingFormat) -> tuple[str, str]:
        """A rendered prompt without what it says of thinking at its end, and the opening there, empty where none is."""
        opening = re.escape(thinking_format.opening)
        own = re.search(rf"(?:{opening}\s*)+\Z", text) if opening else None
        found = own or self._tail.search(text)
        if found is None:
            return text, ""
        last = own and text[text.rindex(thinking_format.opening) :]
        return text[: found.start()], last or ""

    def thinking(self, messages: Messages, thinking_format: ThinkingFormat, effort: str | None = None) -> str:
        """The prompt that ends in one opening of thinking."""
        head, opening = self.opened(self.render(messages, thinking=True, effort=effort), thinking_format)
        return head + (opening or thinking_format.start)

    def without_thinking(
        self, messages: Messages, thinking_format: ThinkingFormat | None, effort: str | None = None
    ) -> str:
        """The prompt after which no thinking comes: by the template's switch, else with a closed empty block."""
        text = self.render(messages, thinking=False, effort=effort)
        if thinking_format is None:
            return text
        head, opening = self.opened(text, thinking_format)
        if not opening and self.has_switch:
            return text
        start = opening or thinking_format.start
        return head + start + thinking_format.before_end + thinking_format.close

    def fitted(self, thinking_format: ThinkingFormat) -> ThinkingFormat:
        """The format with the white space that the template has around its delimiters, as far as it shows them."""
        if thinking_format.name in ("s1", "custom"):
            return thinking_format
        header, opening = self.opened(self.render(_USER, thinking=True), thinking_format)
        start, before, suffix = opening or thinking_format.start, thinking_format.before_end, thinking_format.end_suffix
        block = self._assistant_text().removeprefix(header).split(_ANSWER)[0]
        o, e = re.escape(thinking_format.opening), re.escape(thinking_format.end)
        if shown := re.fullmatch(rf"(\s*{o}\s*){_THOUGHT}(\s*){e}(.*)", block, re.DOTALL):
            start, before, suffix = opening or shown[1], shown[2], shown[3]
        elif shown := re.fullmatch(rf"(\s*{o})?(\s*){e}(\s*)", block, re.DOTALL):  # an empty block
            suffix = shown[3]
            if shown[1] is not None:
                start = opening or shown[1] + shown[2][:1]
            before = "\n" if len(shown[2]) > 1 or (opening and start.endswith("\n")) else ""
        elif opening:
            before = "\n" if start.endswith("\n") else ""
        return ThinkingFormat(
            name=thinking_format.name, start=start, end=thinking_format.end, end_suffix=suffix, before_end=before
        )

    def turn_end(self) -> str:
        """What the template puts behind an answer."""
        return self._assistant_text().rpartition(_ANSWER)[2]

    def probe(self) -> str:
        """The rendering of fixed messages: what a fingerprint holds of the template and its day."""
        system = {"role": "system", "content": "Rules."}
        texts = [self.render([system, *_USER], thinking=switch) for switch in (None, True, False)]
        return "\n".join([*texts, self._assistant_text()])

    def _assistant_text(self) -> str:
        try:
            return self.render(_TURN, thinking=True, turn=False)
        except ValueError:
            return ""


def _merged(messages: Messages) -> Messages:
    system, first, *rest = messages if len(messages) > 1 else (*messages, {"role": "user", "content": ""})
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
