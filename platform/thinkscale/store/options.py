"""The options of a multiple choice question, in the forms that files have them.
Owns what is read as options: a list, an object by letter, labels beside texts, one string with letters or lines, and
any of these printed as JSON, Python or numpy. What is in no such form is refused in words, never dropped."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LABEL_KEYS = ("label", "labels", "key", "letter", "letters", "id", "option_label", "identifier")
_TEXT_KEYS = ("text", "texts", "choices", "options", "content", "value", "option", "choice", "answer", "body")
_LETTERED = re.compile(r"(?:(?<=\s)|(?<=[;,|])|^)(?:[(\[]([A-Za-z]|\d{1,2})[)\]]|([A-Za-z]|\d{1,2})[).:、．])(?=\s|\S)")
_ANNOUNCED = re.compile(r"\s*(?:(?:answer )?(?:options|choices)\s*:)?\s*", re.IGNORECASE)
_PRINTED = re.compile(r"\s*(?:array\()?[\[({]")
_ARRAY = re.compile(r"array\((\[[^\]]*\])\s*(?:,\s*dtype=[^)]*)?\)")
_BETWEEN = re.compile(r"(?<=['\"])[ \n]+(?=['\"])")


@dataclass(frozen=True, slots=True)
class Options:
    """Texts without their letters, and the labels by which an answer may name them."""

    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def read_options(value: Any) -> Options:
    """The options that a field holds; none where it is empty.
    Raises ValueError where it holds something else; the message says what."""
    if str(value).strip().lower() in ("", "none", "null", "nan", "[]", "{}"):
        return Options()
    found = _read(value)
    if len(found.texts) < 2 or any(not text for text in found.texts):
        what = f"{type(value).__name__} {str(value)[:80]!r}"
        raise ValueError(
            f"options cannot be read from the {what}: they must be a list of texts, an object by letter, labels and "
            "texts, a line for each, or one text with A) B) C)"
        )
    return found


def _read(value: Any) -> Options:
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, list) and all(isinstance(item, tuple | list) and len(item) == 2 for item in value):
        keys = [str(item[0]) for item in value]
        in_order = any(keys == [_label(first, place) for place in range(len(keys))] for first in "A1")
        if in_order or isinstance(value[0], tuple):
            value = dict(value)  # a Parquet map, or pairs
    if isinstance(value, Mapping):
        return _from_object(value)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        pairs = [(_first(item, _LABEL_KEYS), _first(item, _TEXT_KEYS)) for item in value]
        if all(text is not None for _, text in pairs):
            return _labelled([label for label, _ in pairs], [text for _, text in pairs])
        if all(len(item) == 1 for item in value):  # [{"A": "3"}, {"B": "4"}]
            return _from_object({key: text for item in value for key, text in item.items()})
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return _without_letters([str(item) for item in value])
    return Options()


def _first(item: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _from_object(value: Mapping[str, Any]) -> Options:
    texts, labels = _first(value, _TEXT_KEYS), _first(value, _LABEL_KEYS)
    if isinstance(texts, list):
        return _labelled(labels, texts) if isinstance(labels, list) else _read(texts)
    if len(value) == 1 and isinstance(inner := next(iter(value.values())), Mapping | list):
        return _read(inner)
    given = {str(key).strip("().: "): text for key, text in value.items() if text is not None}
    keys = sorted(given, key=lambda key: (len(key), key))
    return _labelled([key if key.isdigit() else key[-1:] for key in keys], [given[key] for key in keys])


def _labelled(labels: Sequence[Any], texts: Sequence[Any]) -> Options:
    if not all(isinstance(text, str | int | float) for text in texts):
        return Options()
    if len(labels) != len(texts) or any(label is None for label in labels):
        return _without_letters([str(text) for text in texts])
    names = [str(label).strip().strip("().:").upper() for label in labels]
    pairs = list(zip(names, (str(text).strip() for text in texts), strict=True))
    if len(set(names)) == len(names) and all(len(name) == 1 and name.isalpha() for name in names):
        pairs.sort()
    return Options(tuple(text for _, text in pairs), tuple(name for name, _ in pairs))


def _without_letters(texts: Sequence[str]) -> Options:
    marks = [_LETTERED.match(text.lstrip()) for text in texts]
    labels = [(mark[1] or mark[2]).upper() for mark in marks if mark]
    if len(texts) > 1 and any(labels == [_label(first, i) for i in range(len(texts))] for first in ("A", "1")):
        texts = [text.lstrip()[mark.end() :] for text, mark in zip(texts, marks, strict=True) if mark]
        return Options(tuple(text.strip() for text in texts), tuple(labels))
    return Options(tuple(text.strip() for text in texts))


def _label(first: str, place: int) -> str:
    return chr(ord("A") + place) if first == "A" else str(place + 1)


def _from_text(text: str) -> Options:
    if _PRINTED.match(text):
        for load in (json.loads, _python):
            try:
                found = load(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
            return _read(list(found) if isinstance(found, tuple) else found)
    for first in ("A", "1"):
        marks: list[re.Match[str]] = []
        for mark in _LETTERED.finditer(text):
            if (mark[1] or mark[2]).upper() == _label(first, len(marks)):
                marks.append(mark)
        if len(marks) > 1 and _ANNOUNCED.fullmatch(text[: marks[0].start()]):
            ends = [*(mark.start() for mark in marks[1:]), len(text)]
            texts = [text[mark.end() : end].strip(" \t\r\n;,|") for mark, end in zip(marks, ends, strict=True)]
            return Options(tuple(texts), tuple(_label(first, i) for i in range(len(marks))))
    for separator in ("\n", "|", ";", "\t"):
        if separator in text.strip():
            return _without_letters([part.strip() for part in text.strip().split(separator) if part.strip()])
    return Options()


def _python(text: str) -> Any:
    """A list as Python or numpy print it: numpy's has no commas."""
    text = _BETWEEN.sub(", ", _ARRAY.sub(r"\1", text.strip()))
    if re.fullmatch(r"\[[^\[\],'\"]*\]", text):
        return text.strip("[]").split()
    return ast.literal_eval(text)
