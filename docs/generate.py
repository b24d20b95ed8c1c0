"""Writes the pages of settings, campaign.md and service.md, from their types: `make docs`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.reference import one_line, sections_in, toml_value
from thinkscale.domain.service import Service

HERE = Path(__file__).parent
PAGES: dict[str, tuple[type[BaseModel], str, str]] = {
    "campaign.md": (
        Campaign,
        "Settings of a campaign",
        "A campaign is one TOML file. Only the keys without a default must be given; `thinkscale init` writes a file "
        "to start from, `thinkscale show CAMPAIGN` prints all settings of one with their meanings, and "
        "`--set train.learning_rate=2e-5` overrides one. This page is generated from the types: `make docs`.",
    ),
    "service.md": (
        Service,
        "Settings of a service",
        "What `thinkscale serve MODEL --set KEY=VALUE` takes, and the `args` of a Serve config file. This page is "
        "generated from the types: `make docs`.",
    ),
}


def pages() -> dict[str, str]:
    return {name: reference_page(*what) for name, what in PAGES.items()}


def reference_page(root: type[BaseModel], title: str, opening: str) -> str:
    """All settings of a type as a page of Markdown, a table for each section."""
    lines, shown = [f"# {title}", "", opening], dict[type[BaseModel], str]()
    for heading, section in _sections(root, "", ""):
        lines += ["", *([f"## {heading}", ""] if heading else [])]
        if section in shown:
            lines.append(f"As {shown[section]}.")
            continue
        shown[section] = heading
        lines += [*([one_line(section.__doc__), ""] if section.__doc__ and heading else [])]
        lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
        schema = section.model_json_schema()
        for name, field in section.model_fields.items():
            if not sections_in(field.annotation):
                allowed, meaning = _allowed(schema["properties"][name]), one_line(field.description or "")
                default = "must be given" if field.is_required() else f"`{toml_value(field.get_default())}`"
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


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text)
