"""Sentences of a decision, as plain text and as Markdown."""

from __future__ import annotations

from pipeline.report.choice import Choice
from pipeline.report.equal_flops import NEAR
from pipeline.report.figures import shown_error, shown_interval, shown_ratio
from pipeline.report.rows import ReportRow

Choices = tuple[Choice, ...]


def headline(choices: Choices) -> str:
    """Return the decision in one sentence."""
    reached = [choice for choice in choices if choice.row is not None]
    if not reached:
        return f"No schedule can be recommended: no method was measured near {_targets(choices)}."
    methods = [choice.row.method for choice in reached if choice.row is not None]
    parts = [
        f"{'' if method == before else f'{method} '}{_clause(choice)}"
        for choice, method, before in zip(reached, methods, [None, *methods], strict=False)
    ]
    parts[0] = parts[0].replace("x (", "x fewer FLOPs (", 1)
    missing = ["at " + shown_target(one.target) for one in choices if one.row is None]
    tail = f"; no method was measured {' and '.join(missing)}" if missing else ""
    policy = (
        ""
        if any(choice.has_policy for choice in choices)
        else "; no learned schedule was evaluated"
    )
    return f"Ship {', and '.join(parts)}{tail}{policy}."


def _targets(choices: Choices) -> str:
    return " or ".join(shown_target(choice.target) for choice in choices) + " fewer FLOPs"


def shown_target(target: float) -> str:
    """Format a saving that is asked for: ``2x``."""
    return f"{target:g}x"


def _clause(choice: Choice) -> str:
    assert choice.row is not None
    error = shown_error(choice.row.latent_rel_l2)
    return f"at {shown_ratio(choice.row.flops_ratio)} (error {error}{_against(choice)})"


def _against(choice: Choice) -> str:
    loser, error = _loser(choice)
    if loser is None:
        return "; nothing to compare it with"
    if choice.verdict == "tie":
        return f"; no difference shown from {loser}, {shown_error(error)}"
    return f", where {loser} has {shown_error(error)}"


def _loser(choice: Choice) -> tuple[str | None, float]:
    """Return the method that is not shipped, with its error."""
    if choice.other is None or choice.compared is None:
        return None, 0.0
    if choice.ships_compared:
        return choice.other.method, choice.other.error
    return choice.compared.method, choice.compared.latent_rel_l2


def sentence(choice: Choice) -> str:
    """Return the schedule to ship at one saving and the evidence for it."""
    start = f"At {shown_target(choice.target)} fewer FLOPs"
    if choice.row is None:
        return f"{start}: no method was measured within {NEAR - 1:.0%} of this saving."
    absent = choice.has_policy and not choice.is_learned
    note = " No learned schedule was measured near this saving." if absent else ""
    return f"{start} ship {choice.row.name}: {point_text(choice.row)}. {evidence(choice)}{note}"


def point_text(row: ReportRow) -> str:
    """Return the saving and the errors of an operating point."""
    parts = [f"{shown_ratio(row.flops_ratio)}, relative L2 error {shown_error(row.latent_rel_l2)}"]
    if row.latent_rel_l2_ci95:
        parts[0] += f" {shown_interval(row.latent_rel_l2_ci95)}"
    if row.latent_rel_l2_p90 is not None:
        parts.append(f"90th percentile {shown_error(row.latent_rel_l2_p90)}")
    if row.latent_rel_l2_worst is not None:
        parts.append(f"worst sample {shown_error(row.latent_rel_l2_worst)}")
    return ", ".join(parts)


def evidence(choice: Choice) -> str:
    """Return the comparison with the best other method at the same FLOPs."""
    mine, other = choice.compared, choice.other
    if mine is None or other is None:
        return "No other method was measured at this saving or a larger one."
    what = "best alternative" if choice.is_learned else "next best method"
    theirs = f"{shown_error(other.error)} at {shown_ratio(other.flops_ratio)}"
    if not choice.ships_compared:
        what = "best learned schedule" if choice.is_learned else "next best method"
        theirs = f"{shown_error(mine.latent_rel_l2)} at {shown_ratio(mine.flops_ratio)}"
    loser = other.method if choice.ships_compared else mine.name
    return f"The {what}, {loser}, has {theirs}: {_judged(choice)}."


def _judged(choice: Choice) -> str:
    assert choice.compared is not None
    assert choice.other is not None
    if choice.difference is not None and choice.difference.ci95 is not None:
        sign = 1.0 if choice.ships_compared else -1.0
        ends = sorted(sign * end for end in choice.difference.ci95)
        basis = (
            f"paired difference {shown_error(sign * choice.difference.mean)} "
            f"{shown_interval((ends[0], ends[1]))} over {choice.difference.count} samples"
        )
    elif choice.compared.latent_rel_l2_ci95 and choice.other.ci95:
        basis = f"the 95% intervals {'' if choice.verdict == 'tie' else 'do not '}overlap"
    else:
        basis = "without intervals"
    return f"{_factor(choice)} ({basis})"


def _factor(choice: Choice) -> str:
    assert choice.compared is not None
    assert choice.other is not None
    if choice.verdict == "tie":
        return "no difference can be shown"
    errors = sorted([choice.compared.latent_rel_l2, choice.other.error])
    return f"{errors[1] / errors[0]:.1f} times the error" if errors[0] > 0 else "a larger error"


def markdown(choices: Choices) -> str:
    """Return the decision, its evidence and the commands in Markdown."""
    parts = [f"**{_escaped(headline(choices))}**"]
    parts += [f"- {_escaped(sentence(choice))}" for choice in choices]
    commands = dict.fromkeys(one.command for one in choices if one.command)
    if commands:
        parts.append("Sample with it:")
        parts.append("\n".join(["```", *(command for command in commands if command), "```"]))
    lines = "\n".join(parts[1 : 1 + len(choices)])
    return "\n\n".join([parts[0], lines, *parts[1 + len(choices) :]])


def _escaped(text: str) -> str:
    """Escape the characters of method and model names that Markdown would interpret."""
    for character in "\\`*_<>|":
        text = text.replace(character, f"\\{character}")
    return text
