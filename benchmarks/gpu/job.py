"""What a phase is given: the device, the sizes, the time that is left, and where to put what it finds."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from model.config import ModelConfig


@dataclass
class Job:
    """``put`` sends a result at once, so a phase that is killed later still reports it."""

    device_name: str
    is_tiny: bool
    nanogpt: Path | None
    budget_s: float
    send: Callable[[dict[str, Any]], None]
    began: float = field(default_factory=time.monotonic)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    cuts: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device(self.device_name)

    @property
    def is_cuda(self) -> bool:
        return self.device_name.startswith("cuda")

    def left_s(self) -> float:
        return self.budget_s - (time.monotonic() - self.began)

    def has(self, seconds: float, what: str) -> bool:
        """Whether so much time is left for ``what``; if not, the line of the phase says that it was left out."""
        if self.left_s() >= seconds:
            return True
        self.cuts.append(what)
        self.put(cut=self.cuts)
        return False

    def put(self, **results: Any) -> None:
        self.send(results)

    def check(self, name: str, measured: float, limit: float) -> None:
        """An exactness check: ``measured`` must be a number up to ``limit``. The phase fails if it is not."""
        shown = float(f"{measured:.4g}") if math.isfinite(measured) else None  # JSON has no infinity
        self.checks[name] = {"measured": shown, "limit": float(f"{limit:.4g}"), "met": measured <= limit}
        self.put(checks=self.checks)

    def pick(self, real: Any, tiny: Any) -> Any:
        return tiny if self.is_tiny else real

    def model(self, preset: str) -> ModelConfig:
        """The shape of a preset; with ``--tiny`` a small one."""
        from model.config import PRESETS

        model = PRESETS[preset].model
        if not self.is_tiny:
            return model
        return dataclasses.replace(model, layers=2, heads=2, width=32, context=32, vocab_size=512)

    def synchronize(self) -> None:
        if self.is_cuda:
            import torch

            torch.cuda.synchronize()
