"""Reading campaign files: TOML, overrides, and refusals that name the key, the value and what is allowed."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from thinkscale.domain.campaign import Campaign, FilesSource, Judge
from thinkscale.domain.service import Service

M = TypeVar("M", bound=BaseModel)


class CampaignError(ValueError):
    """A campaign file cannot be read or says something impossible."""


def load_campaign(name_or_path: str, overrides: Sequence[str] = ()) -> Campaign:
    """A packaged campaign's name (`demo`) or a TOML file's path, with `key.path=value` overrides.

    Raises:
        CampaignError: no such campaign, broken TOML, an unknown key, a wrong type, an impossible value.
    """
    where, raw = _read(name_or_path)
    return _validated(Campaign, raw, overrides, where)


def load_service(model: str, overrides: Sequence[str] = ()) -> Service:
    """How to serve a model, with `key.path=value` overrides. Raises CampaignError as `load_campaign`."""
    return _validated(Service, {"model": {"base": model}}, overrides, "service")


def load_judge(raw: dict[str, Any], overrides: Sequence[str] = ()) -> Judge:
    """A model that grades, with `key.path=value` overrides. Raises CampaignError as `load_campaign`."""
    return _validated(Judge, raw, overrides, f"judge {raw['model']}")


def load_source(raw: dict[str, Any], overrides: Sequence[str] = ()) -> FilesSource:
    """A source of questions, with `key.path=value` overrides. Raises CampaignError as `load_campaign`."""
    return _validated(FilesSource, raw, overrides, f"source {raw['name']}")


def _validated(model: type[M], raw: dict[str, Any], overrides: Sequence[str], where: str) -> M:
    for override in overrides:
        _apply(raw, override)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise CampaignError(f"{where}:\n" + "\n".join(_explain(e, model) for e in error.errors())) from error


def packaged_campaigns() -> list[str]:
    files = (resources.files("thinkscale") / "campaigns").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def _read(name_or_path: str) -> tuple[str, dict[str, Any]]:
    path = Path(name_or_path)
    source: Any = path
    if path.suffix != ".toml" and "/" not in name_or_path:
        if name_or_path not in (known := packaged_campaigns()):
            raise CampaignError(f"no campaign {name_or_path!r}: give a .toml file's path or one of {', '.join(known)}")
        source = resources.files("thinkscale") / "campaigns" / f"{name_or_path}.toml"
    elif not path.is_file():
        raise CampaignError(f"no campaign file {name_or_path}")
    try:
        return name_or_path, tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CampaignError(f"{name_or_path} is not valid TOML: {error}") from error


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one `key.path=value`; the value is TOML, or a bare string where it is not. Lists take an index."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise CampaignError(f"--set {override!r}: must read key.path=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    node: Any = raw
    for part in parents:
        key = _key(node, part, override)
        node = node[key] if isinstance(node, list) else node.setdefault(key, {})
    node[_key(node, last, override)] = value


def _key(node: Any, part: str, override: str) -> Any:
    """A part of an override's key, as the list or section that it reaches into takes it."""
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise CampaignError(f"--set {override!r}: {part!r} is not inside a section")
    if not part.isdigit() or int(part) >= len(node):
        raise CampaignError(f"--set {override!r}: {part!r} is no index into a list of {len(node)}")
    return int(part)


def _explain(error: Any, model: type[BaseModel]) -> str:
    if not error["loc"]:  # of several settings, which the message names
        return f"  {error['msg'].removeprefix('Value error, ')}"
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = ", ".join(_keys([model], error["loc"][:-1]))
        return f"  {key}: unknown key (value {error['input']!r}); there are: {known}"
    if error["type"] == "missing":
        return f"  {key}: must be given"
    value = "" if isinstance(error["input"], dict) else f" {error['input']!r} is refused:"
    return f"  {key}:{value} {error['msg'].removeprefix('Value error, ')}"


def _keys(sections: list[type[BaseModel]], path: tuple[int | str, ...]) -> list[str]:
    """The settings of the section at a path, which holds lists' indices and the types of a union's members too."""
    for part in path:
        inner = [each.model_fields[part].annotation for each in sections if part in each.model_fields]
        typed = [each for each in sections if "type" in each.model_fields and each.model_fields["type"].default == part]
        sections = [section for each in inner for section in _sections(each)] or typed or sections
    return sorted({name for section in sections for name in section.model_fields})


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for each in get_args(annotation) for section in _sections(each)]
