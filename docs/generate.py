"""Writes the pages of settings, campaign.md and service.md, from their types: `make docs`."""

from pathlib import Path

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.reference import reference_page
from thinkscale.domain.service import Service

HERE = Path(__file__).parent
PAGES = {
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


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text)
