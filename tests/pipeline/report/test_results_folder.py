"""Page of a results folder: written beside the results, drawn again from them, or refused."""

import json
import sys

import pytest

from dqar.schedules.serialization import save_plan
from pipeline.errors import InputError
from pipeline.report.__main__ import main
from pipeline.report.results_folder import draw_again, results_of, running_command, write_page
from tests.pipeline.report.made_up_results import row
from tests.pipeline.report.test_page import PLAN, points


def written(folder, monkeypatch):
    """A results folder as an evaluation leaves it."""
    command = ["jobs/evaluate.py", "--out", str(folder), "--tracking-uri", "http://me:secret@host"]
    monkeypatch.setattr(sys, "argv", command)
    measured = points()
    write_page(measured, folder, "A title", ["A note."])
    (folder / "results.json").write_text(json.dumps([one.row for one in measured]))
    for name in ("learned-policy-5-order-0-feedback-0", "learned-policy-3-order-0-feedback-0"):
        save_plan(PLAN, folder / "plans" / f"{name}.json")
    return folder


def without_samples(html):
    """The page up to its samples, and after them."""
    head, _, tail = html.partition("<h2>Samples</h2>")
    return head + "<h2>What was reused" + tail.partition("<h2>What was reused")[2]


def test_the_page_is_drawn_again_without_samples_alone(tmp_path, monkeypatch):
    folder = written(tmp_path, monkeypatch)
    html, map_svg = ((folder / name).read_text() for name in ("report.html", "reuse_map.svg"))
    (folder / "report.html").unlink()
    (folder / "reuse_map.svg").unlink()
    again = draw_again(folder).read_text()
    assert "data:image" in html
    assert "data:image" not in again
    assert again == without_samples(html)
    assert (folder / "reuse_map.svg").read_text() == map_svg
    assert "secret" not in html + (folder / "evaluation.json").read_text()


def test_results_of_earlier_releases_are_drawn_without_a_command(tmp_path):
    rows = [row("interval", 2.0, 0.1)]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    html = draw_again(tmp_path).read_text()
    assert "Evaluation of digits" in html
    assert "The evaluation:" not in html
    assert not (tmp_path / "reuse_map.svg").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "must be an evaluation's JSON"),
        ("{", "must be an evaluation's JSON"),
        ("[]", "must hold an operating point"),
        ('{"a": 1}', "rows"),
        ('[{"method": "interval", "operating_point": "a", "latent_rel_l2": 1.0}]', "flops_ratio"),
        (json.dumps([row("interval", 2.0, 0.1, psnr="high")]), "psnr"),
    ],
)
def test_damaged_results_are_refused_in_one_line(tmp_path, text, said):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=said) as refusal:
        draw_again(tmp_path)
    assert str(tmp_path / "results.json") in str(refusal.value)
    assert not (tmp_path / "report.html").exists()


def test_the_command_refuses_a_missing_folder_with_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "gone")])
    assert main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "command", "results"),
    [
        (["jobs/evaluate.py", "--out", "a b"], "python jobs/evaluate.py --out 'a b'", "a b"),
        (
            ["jobs/evaluate.py", "--out=s3://b/r"],
            "python jobs/evaluate.py --out=s3://b/r",
            "s3://b/r",
        ),
        (["/elsewhere/job.py", "--out"], "python job.py --out", None),
        (["", "x"], "python - x", None),
    ],
)
def test_the_command_of_the_process_is_recorded(arguments, command, results):
    assert running_command(arguments) == command
    assert results_of(command) == results
