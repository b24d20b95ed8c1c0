"""Every setting with its meaning and default: a campaign as commented TOML, and all settings as a page.
Read from the types alone, so that neither can say what the code does not do."""

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
        default = "must be given" if field.is_required() else f"default: {_value(field.get_default())}"
        if field.description:
            yield f"# {_line(field.description)} ({default})"
        yield f"# {name} =" if value is None else f"{name} = {_value(value)}"
    for name, each, many in below:
        where = f"{path}{name}"
        yield ""
        if each.__doc__:
            yield f"# {_line(each.__doc__)}"
        yield f"[[{where}]]" if many else f"[{where}]"
        yield from commented_toml(each, f"{where}.")


def reference_page(root: type[BaseModel], title: str, opening: str) -> str:
    """All settings of a type as a page of Markdown, a table for each section."""
    lines, shown = [f"# {title}", "", opening], dict[type[BaseModel], str]()
    for heading, section in _sections(root, "", ""):
        lines += ["", *([f"## {heading}", ""] if heading else [])]
        if section in shown:
            lines.append(f"As {shown[section]}.")
            continue
        shown[section] = heading
        lines += [*([_line(section.__doc__), ""] if section.__doc__ and heading else [])]
        lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
        schema = section.model_json_schema()
        for name, field in section.model_fields.items():
            if not sections_in(field.annotation):
                allowed, meaning = _allowed(schema["properties"][name]), _line(field.description or "")
                default = "must be given" if field.is_required() else f"`{_value(field.get_default())}`"
                meaning = meaning.replace("|", "\\|")
                lines.append(f"| `{name}` | {allowed} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _sections(section: type[BaseModel], heading: str, path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield heading, section
    for name, field in section.model_fields.items():
        inner, where = sections_in(field.annotation), f"{path}{name}"
        shown = f"[[{where}]]" if str(field.annotation).startswith("list") else f"[{where}]"
        for each in inner:
            kind = each.model_fields["type"].default if len(inner) > 1 and "type" in each.model_fields else None
            yield from _sections(each, f"`{shown}`{f' of `type = {kind!r}`' if kind else ''}", f"{where}.")


def _line(text: str) -> str:
    return " ".join(text.split())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items())
        return f"{{ {inner} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def _allowed(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_allowed(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(each)}`" for each in schema.get("enum", [schema.get("const")]))
    kind = {"string": "text", "boolean": "true or false", "array": "list", "object": "table"}.get(schema["type"])
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = " and ".join(f"{sign} {schema[name]:g}" for name, sign in limits.items() if name in schema)
    inner = schema.get("items") or schema.get("additionalProperties") or schema.get("prefixItems", [None])[0]
    kind = f"{kind} of {_allowed(inner)}" if isinstance(inner, dict) else kind or schema["type"]
    return f"{kind} {told}".rstrip()
