"""What the batches of one operating point add up to."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from torch import Tensor

from dqar.summary import ReuseSummary
from pipeline.quality import Deltas


@dataclass(slots=True)
class Tally:
    """Filled batch by batch."""

    deltas: list[Deltas] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Of each timed batch."""
    twin_seconds: list[float] = field(default_factory=list)
    """Of its twin, sampled right before."""
    images: list[Tensor] = field(default_factory=list)
    twins: list[Tensor] = field(default_factory=list)
    reused: int = 0
    gates: int = 0
    reused_by_site: Counter[str] = field(default_factory=Counter)
    shared_by_site: Counter[str] = field(default_factory=Counter)
    """Gates that computed one guidance branch for both."""
    actions_by_site: defaultdict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """Reuses by what they showed."""
    cache_bytes: int = 0
    """The most that any batch held."""

    def count(self, summary: ReuseSummary) -> None:
        """Add what a batch's controller did."""
        self.reused += summary.reused
        self.gates += summary.gates
        self.reused_by_site.update(summary.by_site)
        self.shared_by_site.update(summary.shared_by_site)
        for site, actions in summary.actions_by_site.items():
            self.actions_by_site[site].update(actions)
        self.cache_bytes = max(self.cache_bytes, summary.cache_bytes)

    @property
    def reuse_ratio(self) -> float:
        """Gates not computed / all gates."""
        return self.reused / self.gates if self.gates else 0.0

    def skipped_by_site(self, sites: tuple[str, ...], branches: int) -> dict[str, float]:
        """Share of each site's rows that were not computed; a shared gate skips one branch."""
        rows = self.gates / len(sites) * branches
        return {
            site: (self.reused_by_site[site] * branches + self.shared_by_site[site]) / rows
            for site in sites
        }
