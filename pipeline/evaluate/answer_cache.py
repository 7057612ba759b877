"""Answers of an evaluation's workers, kept until the evaluation is whole: a run that was cut off
asks only for what is missing.

An answer is ``KEY.npz`` (arrays, never pickled) and ``KEY.json`` (the rest), which appears last, by
an atomic rename. KEY digests the task, the configuration and the model's weights, so that an answer
to anything else is not found; one that cannot be read is none.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dqar.schedules.serialization import plan_document, plan_of_document
from pipeline.evaluate.accumulator import MetricAccumulator
from pipeline.evaluate.tasks import EvalTask, EvalTaskResult
from pipeline.methods.calibration import CalibrationResult, CalibrationTask
from pipeline.methods.learning_to_cache import RouterProbe, Routers
from pipeline.methods.smoothcache import CurveProbe, Curves
from pipeline.models.image_metrics import FeatureSums
from pipeline.storage.fingerprint import fingerprint
from pipeline.storage.local_folder import LocalFolder

FOLDER = "_points"
"""Folder of the answers within a results folder; gone when the results are written."""
VERSION = 1
"""Of what is kept."""
MAX_BYTES = 2**30
"""Size of a file beyond which it is no answer."""
UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)
"""What reading an answer that is damaged may end in."""
Work = Callable[[Sequence[Any]], Iterator[tuple[Any, Any]]]
"""What does tasks: yields each with its answer, in any order."""


class ResultCache:
    """The answers of one evaluation on disk.

    Args:
        folder: where they are, made when the first is kept.
        claim: what all tasks share: the configuration, the model's digest.
    """

    def __init__(self, folder: Path, *claim: Any) -> None:
        self.folder = folder
        self.claim = fingerprint(VERSION, *claim)

    def work(self, tasks: Sequence[Task], work: Work) -> Iterator[tuple[Task, Answer]]:
        """Yield each task with its answer: those kept first, then the others as they are done."""
        found = [(task, self.take(task)) for task in tasks]
        missing = [task for task, answer in found if answer is None]
        if len(missing) < len(tasks):
            kept = len(tasks) - len(missing)
            print(f"evaluate: {kept} of {len(tasks)} answers are of an earlier run", flush=True)
        yield from ((task, answer) for task, answer in found if answer is not None)
        for task, answer in work(missing):
            self.keep(task, answer)
            yield task, answer

    def take(self, task: Task) -> Answer | None:
        """The answer to a task, or None."""
        path = self._path(task)
        arrays = path.with_suffix(".npz")
        try:
            if max(path.stat().st_size, arrays.stat().st_size) > MAX_BYTES:
                return None
            stored, data = json.loads(path.read_text()), arrays.read_bytes()
            if stored.pop("digest") != _digest(stored, data):
                return None
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                return decode(task, stored, {name: found[name] for name in found.files})
        except UNREADABLE:
            return None

    def keep(self, task: Task, answer: Answer) -> None:
        """Write an answer; it appears whole or not at all."""
        path, folder = self._path(task), LocalFolder(path=self.folder)
        stored, arrays = encode(answer)
        named: Any = arrays
        buffer = io.BytesIO()
        np.savez(buffer, **named)
        # As it reads again: JSON knows texts alone for names.
        stored = json.loads(json.dumps(stored))
        stored["digest"] = _digest(stored, buffer.getvalue())
        folder.write(path.with_suffix(".npz").name, buffer.getvalue())
        folder.write(path.name, json.dumps(stored).encode())

    def _path(self, task: Task) -> Path:
        return self.folder / f"{fingerprint(self.claim, task)}.json"

    def clear(self) -> None:
        """Remove what was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _digest(stored: dict[str, Any], data: bytes) -> str:
    """Of both files, so that one that was damaged or belongs to another is no answer."""
    text = json.dumps(stored, sort_keys=True).encode()
    return hashlib.sha256(text + b"\n" + data).hexdigest()


Question = CalibrationTask | CurveProbe | RouterProbe
"""What a worker answers on calibration noise."""
Found = CalibrationResult | Curves | Routers
Task = Question | EvalTask
Answer = Found | EvalTaskResult
Arrays = dict[str, np.ndarray]
Stored = dict[str, Any]
PROBED = ("reuse_ratio", "share", "error", "entropies")
PLAIN = ("samples", "matches", "flops", "reference_flops", "timed", "seconds", "reference_seconds")
COUNTED = ("reused", "gates", "cache_bytes", "peak_memory_mb")
BY_NAME = ("sums", "reused_by_site", "shared_by_site", "actions_by_site")


def encode(answer: Answer) -> tuple[Stored, Arrays]:
    """An answer as what JSON can hold, and arrays."""
    if isinstance(answer, CalibrationResult):
        arrays = {name: getattr(answer, name).numpy() for name in PROBED}
        return {"snrs": answer.snrs}, arrays
    if isinstance(answer, Curves):
        return {}, {"error": answer.error.numpy()}
    if isinstance(answer, Routers):
        return {}, {"share": answer.share.numpy()}
    metrics = answer.metrics
    stored = {name: getattr(metrics, name) for name in (*PLAIN, *COUNTED, *BY_NAME)}
    stored |= {"device": answer.device, "site_share": answer.site_share}
    stored["plan"] = None if answer.plan is None else plan_document(answer.plan)
    arrays = {f"image{i}": image for i, image in enumerate(metrics.images)}
    arrays |= {f"twin{i}": image for i, image in enumerate(metrics.references)}
    stored["shown"] = len(metrics.images)
    for name, sums in (("features", metrics.features), ("reference", answer.real_features)):
        stored[name] = None if sums is None else sums.count
        if sums is not None:
            arrays |= {f"{name}_total": sums.total.numpy(), f"{name}_outer": sums.outer.numpy()}
    return stored, arrays


def decode(task: Task, stored: Stored, arrays: Arrays) -> Answer:
    """The answer to a task.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: if it is none.
    """
    if isinstance(task, CalibrationTask):
        return CalibrationResult(
            **{name: torch.from_numpy(arrays[name]) for name in PROBED}, snrs=stored["snrs"]
        )
    if isinstance(task, CurveProbe):
        return Curves(error=torch.from_numpy(arrays["error"]))
    if isinstance(task, RouterProbe):
        return Routers(share=torch.from_numpy(arrays["share"]))
    metrics = MetricAccumulator(**{name: stored[name] for name in (*PLAIN, *COUNTED)})
    if metrics.samples != len(task):
        raise ValueError(f"samples must be {len(task)}. Got {metrics.samples}. Measure it again.")
    metrics.sums = defaultdict(float, stored["sums"])
    metrics.reused_by_site = Counter(stored["reused_by_site"])
    metrics.shared_by_site = Counter(stored["shared_by_site"])
    for site, actions in stored["actions_by_site"].items():
        metrics.actions_by_site[site] = Counter(actions)
    metrics.images = [arrays[f"image{i}"] for i in range(stored["shown"])]
    metrics.references = [arrays[f"twin{i}"] for i in range(stored["shown"])]
    metrics.features = _sums("features", stored, arrays)
    return EvalTaskResult(
        metrics=metrics,
        device=stored["device"],
        site_share=stored["site_share"],
        real_features=_sums("reference", stored, arrays),
        plan=None if stored["plan"] is None else plan_of_document(stored["plan"]),
    )


def _sums(name: str, stored: Stored, arrays: Arrays) -> FeatureSums | None:
    if stored[name] is None:
        return None
    total, outer = (torch.from_numpy(arrays[f"{name}_{kind}"]) for kind in ("total", "outer"))
    return FeatureSums(count=stored[name], total=total, outer=outer)
