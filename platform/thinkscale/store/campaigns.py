"""Reading campaign files: TOML, overrides, and refusals that name the key, the value and what is allowed."""

import re
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.models import Judge
from thinkscale.domain.reference import sections_in
from thinkscale.domain.service import Service
from thinkscale.domain.source import FilesSource

M = TypeVar("M", bound=BaseModel)
_PYDANTIC = re.compile(r"^(?:Input|String|List|Tuple|Dictionary|Value) should ")


class CampaignError(ValueError):
    """A campaign file cannot be read or says something impossible."""


def load_campaign(name_or_path: str, overrides: Sequence[str] = (), written: bytes | None = None) -> Campaign:
    """A packaged campaign's name (`demo`) or a TOML file's path, with `key.path=value` overrides. `written`: the TOML,
    where it was read already.
    Raises CampaignError: no such campaign, broken TOML, an unknown key, a wrong type, an impossible value."""
    raw = _read(name_or_path) if written is None else tomllib.loads(written.decode())
    return _validated(Campaign, raw, overrides, name_or_path)


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
        told = [_explain(each, model) for each in error.errors()]
        raise CampaignError(f"{where}: {told[0]}" if len(told) == 1 else "\n  ".join([f"{where}:", *told])) from error


def packaged_campaigns() -> list[str]:
    files = (resources.files("thinkscale") / "campaigns").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def _read(name_or_path: str) -> dict[str, Any]:
    path = Path(name_or_path)
    source: Any = path
    if path.suffix != ".toml" and "/" not in name_or_path:
        if name_or_path not in (known := packaged_campaigns()):
            raise CampaignError(
                f"no campaign {name_or_path!r}: give a .toml file's path, one that ran under --root, or one of "
                f"{', '.join(known)}"
            )
        source = resources.files("thinkscale") / "campaigns" / f"{name_or_path}.toml"
    elif not path.is_file():
        kind = "a directory" if path.is_dir() else "not there"
        raise CampaignError(f"no campaign file {name_or_path}: it is {kind}")
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise CampaignError(f"{name_or_path} cannot be read: {error.strerror}") from error
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
        node = _only(node, part)
        key = _key(node, part, override)
        node = node[key] if isinstance(node, list) else node.setdefault(key, {})
    node = _only(node, last)
    node[_key(node, last, override)] = value


def _only(node: Any, part: str) -> Any:
    """Of a list of one section, that section where no index is given: teacher.model is teacher.0.model."""
    return node[0] if isinstance(node, list) and len(node) == 1 and not part.isdigit() else node


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
    said = _PYDANTIC.sub("must ", error["msg"].removeprefix("Value error, ").replace(" after validation", ""))
    if not error["loc"]:  # of several settings, which the message names
        return said
    key, value, kind = ".".join(str(part) for part in error["loc"]), error["input"], error["type"]
    if kind == "extra_forbidden":
        known = ", ".join(sorted({name for each in _at([model], error["loc"][:-1]) for name in each.model_fields}))
        near = get_close_matches(str(error["loc"][-1]), known.split(", "), 1)
        told = f"did you mean {near[0]}? There are: {known}" if near else f"there are: {known}"
        return f"{key}: unknown key (value {value!r}); {told}"
    if kind == "missing":
        return f"{key}: must be given"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        types = " or ".join(repr(each.model_fields["type"].default) for each in _at([model], error["loc"]))
        given = "must be given" if kind == "union_tag_not_found" else f"{error['ctx']['tag']!r} is refused"
        return f"{key}.type: {given}: {types}"
    if kind == "model_type":
        said = f"must be a section, [{key}]"
    elif kind == "string_pattern_mismatch" and "A-Za-z0-9" in said:
        said = "must be letters, digits, dots, dashes and underscores, with a letter or digit first"
    return f"{key}:{'' if isinstance(value, dict) else f' {value!r} is refused:'} {said}"


def _at(sections: list[type[BaseModel]], path: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The sections that may stand at a path, which holds lists' indices and the types of a union's members too."""
    for part in path:
        inner = [each.model_fields[part].annotation for each in sections if part in each.model_fields]
        typed = [each for each in sections if "type" in each.model_fields and each.model_fields["type"].default == part]
        sections = [section for each in inner for section in sections_in(each)] or typed or sections
    return sections
