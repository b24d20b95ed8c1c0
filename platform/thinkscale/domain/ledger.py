"""What a stage cost: device-seconds by what they were spent on, and dollars by the campaign's prices."""

from collections.abc import Mapping

from thinkscale.domain.campaign import Prices

USES = ("busy", "startup", "idle", "tail")
"""What seconds of a device were spent on; tail: idle while the last items of the stage were under way elsewhere."""


def device_seconds(stats: Mapping[str, float], device: str) -> float:
    """Seconds of `cpu` or `gpu` among the sums of a manifest, over all devices that the stage held."""
    return sum(stats.get(f"{device}_{use}_s", 0.0) for use in USES)


def dollars(stats: Mapping[str, float], prices: Prices) -> float:
    """For the devices that a stage held, and what endpoints were paid (`reply_usd`)."""
    devices = device_seconds(stats, "cpu") * prices.cpu_hour_usd + device_seconds(stats, "gpu") * prices.gpu_hour_usd
    return devices / 3600 + stats.get("reply_usd", 0.0)
