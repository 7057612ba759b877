"""What workers answer, as JSON and arrays, and back. Floats come back to the last bit."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import torch

from dqar.schedules.serialization import plan_document, plan_of_document
from pipeline.evaluate.accumulator import Tally
from pipeline.evaluate.config import Part, Tallied
from pipeline.methods.calibration import Probe, Probed
from pipeline.methods.learning_to_cache import RouterProbe, Routers
from pipeline.methods.smoothcache import CurveProbe, Curves
from pipeline.models.image_metrics import FeatureSums

Question = Probe | CurveProbe | RouterProbe
"""What a worker answers on calibration noise."""
Found = Probed | Curves | Routers
Task = Question | Part
Answer = Found | Tallied
Arrays = dict[str, np.ndarray]
Stored = dict[str, Any]

PROBED = ("reuse_ratio", "share", "error", "entropies")
PLAIN = ("samples", "matches", "flops", "twin_flops", "timed", "seconds", "twin_seconds")
COUNTED = ("reused", "gates", "cache_bytes", "peak_memory_mb")
BY_NAME = ("sums", "reused_by_site", "shared_by_site", "actions_by_site")


def packed(answer: Answer) -> tuple[Stored, Arrays]:
    """An answer as what JSON can hold, and arrays."""
    if isinstance(answer, Probed):
        arrays = {name: getattr(answer, name).numpy() for name in PROBED}
        return {"snrs": answer.snrs}, arrays
    if isinstance(answer, Curves):
        return {}, {"error": answer.error.numpy()}
    if isinstance(answer, Routers):
        return {}, {"share": answer.share.numpy()}
    tally = answer.tally
    stored = {name: getattr(tally, name) for name in (*PLAIN, *COUNTED, *BY_NAME)}
    stored |= {"device": answer.device, "site_share": answer.site_share}
    stored["plan"] = None if answer.plan is None else plan_document(answer.plan)
    arrays = {f"image{i}": image for i, image in enumerate(tally.images)}
    arrays |= {f"twin{i}": image for i, image in enumerate(tally.twins)}
    stored["shown"] = len(tally.images)
    for name, sums in (("features", tally.features), ("reference", answer.reference)):
        stored[name] = None if sums is None else sums.count
        if sums is not None:
            arrays |= {f"{name}_total": sums.total.numpy(), f"{name}_outer": sums.outer.numpy()}
    return stored, arrays


def unpacked(task: Task, stored: Stored, arrays: Arrays) -> Answer:
    """The answer to a task.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: if it is none.
    """
    if isinstance(task, Probe):
        return Probed(
            **{name: torch.from_numpy(arrays[name]) for name in PROBED}, snrs=stored["snrs"]
        )
    if isinstance(task, CurveProbe):
        return Curves(error=torch.from_numpy(arrays["error"]))
    if isinstance(task, RouterProbe):
        return Routers(share=torch.from_numpy(arrays["share"]))
    tally = Tally(**{name: stored[name] for name in (*PLAIN, *COUNTED)})
    if tally.samples != len(task):
        raise ValueError(f"samples must be {len(task)}. Got {tally.samples}. Measure it again.")
    tally.sums = defaultdict(float, stored["sums"])
    tally.reused_by_site = Counter(stored["reused_by_site"])
    tally.shared_by_site = Counter(stored["shared_by_site"])
    for site, actions in stored["actions_by_site"].items():
        tally.actions_by_site[site] = Counter(actions)
    tally.images = [arrays[f"image{i}"] for i in range(stored["shown"])]
    tally.twins = [arrays[f"twin{i}"] for i in range(stored["shown"])]
    tally.features = _sums("features", stored, arrays)
    return Tallied(
        tally=tally,
        device=stored["device"],
        site_share=stored["site_share"],
        reference=_sums("reference", stored, arrays),
        plan=None if stored["plan"] is None else plan_of_document(stored["plan"]),
    )


def _sums(name: str, stored: Stored, arrays: Arrays) -> FeatureSums | None:
    if stored[name] is None:
        return None
    total, outer = (torch.from_numpy(arrays[f"{name}_{kind}"]) for kind in ("total", "outer"))
    return FeatureSums(count=stored[name], total=total, outer=outer)
