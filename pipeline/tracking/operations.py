"""Everything that a run logs, as records: applied to MLflow at once, or kept and applied later.

A run or an experiment has a key, which this project draws, and an id, which MLflow draws when it is
created. Records name both by key, so that they can be made while MLflow does not answer; a key
within a text that MLflow shows, such as a link, is replaced by its id. Each record may be applied
twice and leaves what it leaves once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from pipeline.redaction import without_secrets
from pipeline.storage.json_schema import Malformed, check
from pipeline.storage.local_folder import checked_key

RUN_KEY = "dqar.run_key"
"""Tag of a run with its key, by which a run that was created unanswered is found again."""
Status: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateExperiment:
    """Creation of an experiment beside that of the stages."""

    experiment: str
    """Key of the experiment."""
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TagExperiment:
    """Tags of an experiment, such as the description that its page shows."""

    experiment: str
    values: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateRun:
    """Creation of a run."""

    run: str
    """Key of the run."""
    name: str
    parent: str | None
    """Key or id of the parent run; None for a run without one."""
    tags: dict[str, str]
    started_ms: int
    """Time of the run's start, in milliseconds since 1970."""
    experiment: str | None = None
    """Key of the experiment; None for that of the stages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogParams:
    """Parameters, which MLflow never lets change."""

    run: str
    values: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class LogMetrics:
    """Finite metrics at one step."""

    run: str
    values: dict[str, float]
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SetTags:
    """Tags."""

    run: str
    values: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class LogDataset:
    """A dataset as an input of a run, identified by a digest of its contents."""

    run: str
    name: str
    digest: str
    uri: str
    context: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LogArtifact:
    """A file of the output folder that is uploaded under its own name."""

    run: str
    key: str
    """Key of the file in the output folder."""
    folder: str | None
    """Artifact folder; None for the top."""

    def __post_init__(self) -> None:
        for path in (self.key, self.folder or "top"):
            checked_key(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterPolicy:
    """Registration of an artifact folder of a run as the newest policy."""

    run: str
    folder: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DescribePolicy:
    """Description and tags of the version that a training run has registered."""

    run: str
    """Id of the training run; nothing happens if it has registered no version."""
    text: str
    """Description in Markdown."""
    values: dict[str, str]
    """Tags."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotePolicy:
    """Promotion of a version to champion, if there is none or if the version has beaten it."""

    run: str
    """Id of the training run that registered the version."""
    beaten: list[str]
    """Ids of the training runs whose versions the evaluation has shown to be worse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndRun:
    """End of a run."""

    run: str
    status: Status
    ended_ms: int
    """Time of the run's end, in milliseconds since 1970."""


RunOperation: TypeAlias = (
    CreateRun
    | LogParams
    | LogMetrics
    | SetTags
    | LogDataset
    | LogArtifact
    | RegisterPolicy
    | DescribePolicy
    | PromotePolicy
    | EndRun
)
Operation: TypeAlias = CreateExperiment | TagExperiment | RunOperation
KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(CreateExperiment, TagExperiment, CreateRun, LogParams, LogMetrics, SetTags),
        *(LogDataset, LogArtifact, RegisterPolicy, DescribePolicy, PromotePolicy, EndRun),
    )
}


def to_document(operation: Operation) -> dict[str, Any]:
    """Return the JSON value of a record."""
    return {"operation": type(operation).__name__, **asdict(operation)}


def from_document(document: dict[str, Any]) -> Operation:
    """Return the record of a JSON value.

    Raises:
        Malformed: naming the field that is wrong.
    """
    fields = dict(document)
    if (kind := KINDS.get(str(fields.pop("operation", None)))) is None:
        raise Malformed(f"operation must be one of {', '.join(KINDS)}.")
    return check(fields, kind, extra="forbid")


def redacted(operation: Operation) -> Operation:
    """Return a record whose parameters, tags, names and addresses hold no secrets."""
    match operation:
        case CreateRun():
            tags = _redacted_values(operation.tags)
            return replace(operation, name=without_secrets(operation.name), tags=tags)
        case LogParams() | SetTags() | TagExperiment():
            return replace(operation, values=_redacted_values(operation.values))
        case DescribePolicy():
            values = _redacted_values(operation.values)
            return replace(operation, text=without_secrets(operation.text), values=values)
        case CreateExperiment():
            return replace(operation, name=without_secrets(operation.name))
        case LogDataset():
            return replace(operation, uri=without_secrets(operation.uri))
    return operation


def _redacted_values(values: dict[str, str]) -> dict[str, str]:
    return {name: without_secrets(value) for name, value in values.items()}
