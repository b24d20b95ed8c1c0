"""Every setting with its meaning and default: a campaign as commented TOML.
Read from the types alone, so that it can say nothing that the code does not do."""

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a setting's type names, within unions and lists too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for each in get_args(annotation) for section in sections_in(each)]


def commented_toml(section: BaseModel, path: str = "") -> Iterator[str]:
    """A section's settings as lines of TOML, each below a comment with its meaning and default."""
    fields, below = type(section).model_fields, []
    for name, field in fields.items():
        value = getattr(section, name)
        if sections_in(field.annotation):
            many = isinstance(value, list)
            below += [(name, each, many) for each in (value if many else [value]) if each is not None]
            continue
        default = "must be given" if field.is_required() else f"default: {toml_value(field.get_default())}"
        if field.description:
            yield f"# {one_line(field.description)} ({default})"
        yield f"# {name} =" if value is None else f"{name} = {toml_value(value)}"
    for name, each, many in below:
        where = f"{path}{name}"
        yield ""
        if each.__doc__:
            yield f"# {one_line(each.__doc__)}"
        yield f"[[{where}]]" if many else f"[{where}]"
        yield from commented_toml(each, f"{where}.")


def one_line(text: str) -> str:
    return " ".join(text.split())


def toml_value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {toml_value(each)}" for key, each in value.items())
        return f"{{ {inner} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)
