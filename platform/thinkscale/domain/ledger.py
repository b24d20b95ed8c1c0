"""What a stage cost: device-seconds by what they were spent on, and dollars by the campaign's prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from thinkscale.domain.campaign import Prices


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """Seconds summed over all devices that a stage held."""

    cpu_busy_s: float = 0.0
    cpu_startup_s: float = 0.0
    cpu_idle_s: float = 0.0
    cpu_tail_s: float = 0.0  # idle while the last items of the stage were still under way elsewhere
    gpu_busy_s: float = 0.0
    gpu_startup_s: float = 0.0
    gpu_idle_s: float = 0.0
    gpu_tail_s: float = 0.0
    reply_usd: float = 0.0  # dollars that endpoints were paid

    @staticmethod
    def of(stats: Mapping[str, float]) -> Ledger:
        """The device-seconds among the sums of a manifest."""
        return Ledger(**{field.name: stats.get(field.name, 0.0) for field in fields(Ledger)})

    def seconds(self, device: str) -> float:
        """All seconds of `cpu` or `gpu`."""
        return float(sum(value for name, value in asdict(self).items() if name.startswith(device)))

    def usd(self, prices: Prices) -> float:
        devices = self.seconds("cpu") * prices.cpu_hour_usd + self.seconds("gpu") * prices.gpu_hour_usd
        return devices / 3600 + self.reply_usd
