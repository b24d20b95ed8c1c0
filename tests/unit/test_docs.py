"""The documents keep to what is there: links, commands, settings and messages."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from thinkscale.cli import cli
from thinkscale.domain.campaign import Campaign

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for pattern in ("*.md", "docs/*.md") for path in ROOT.glob(pattern))
SOURCES = list((ROOT / "platform").rglob("*.py"))


def fenced(language: str = "") -> list[str]:
    blocks = [re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL) for page in PAGES]
    return [text for found in blocks for text in found]


def commands() -> list[str]:
    lines = "\n".join(fenced()).replace("\\\n", " ").splitlines()
    blocks = [line.split("#")[0].strip() for line in lines if line.startswith("thinkscale ")]
    inline = [found for page in PAGES for found in re.findall(r"`(thinkscale [a-z][^`]+)`", page.read_text())]
    return sorted({*blocks, *(re.sub(r"\s+", " ", command) for command in inline)})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("command", commands())
def test_every_command_and_option_exists(command: str) -> None:
    found: click.Command = cli
    words = shlex.split(command)[1:]
    while isinstance(found, click.Group) and words and words[0].isidentifier():
        assert words[0] in found.commands, command
        found = found.commands[words.pop(0)]
    if found.name == "submit":
        assert words[0] == "--address"
        return
    known = {option for parameter in found.params for option in parameter.opts}
    for word in words:
        if word.startswith("--"):
            assert word in known, f"{command}: {word}"


def test_commands_were_found() -> None:
    assert len(commands()) > 15


def test_the_campaign_in_the_readme_is_one() -> None:
    [text] = re.findall(r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    campaign = Campaign.model_validate(tomllib.loads(text))
    assert campaign.evaluate.budgets.waits == [0, 2, 4]
    assert sum(bool(line) for line in text.splitlines()) <= 25


def test_every_message_of_the_troubleshooting_page_is_one_that_the_code_gives() -> None:
    code = "\n".join(path.read_text() for path in SOURCES)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts over several lines
    code = re.sub(r"\s+", " ", code)
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"\*\*`([^`]+)`\*\*", text)
    assert len(messages) > 20
    for message in messages:
        for part in re.sub(r"\s+", " ", message).split("…"):
            assert part.strip() in code, message


def test_every_file_that_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"`((?:[a-z]+/)+[a-z]+\.py)`", text):
        assert (ROOT / "platform" / "thinkscale" / name).exists(), name
