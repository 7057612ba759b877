"""Help pages from dataclasses of flags, and jobs whose first argument is a word."""

import pytest

from pipeline.cli import parse_flags, run_job
from pipeline.errors import InputError
from tests.pipeline.job_flags import Base, Flags, Pool

PAGE = """usage: job.py [-h] [OPTIONS]

Do a job on a model, a sentence that is long enough to be broken over two lines
of the page.

 options
 --------------------------------------------------------
  -h, --help      show this help message and exit
  --model TEXT    Model. (required)
  --traces TEXT   Traces. (required, repeatable)
  --seed INT      Random seed. (default: 0)
  --sampler {ddim,dpm}
                  Sampler; default: the policy's.
  --bits {2,8}    Bits. (default: 8)
  --size INT|auto
                  Size. (default: 48)
  --budget NUMBER
                  Budget; default: none.
  --orders INT,INT,...
                  Orders. (default: 0,1)
  --shares NUMBER,NUMBER,...
                  Shares; default: all.
  --sites NAME,NAME,...
                  Sites; default: all.
  --kinds {a,b},...
                  Kinds. (default: a)
  --policy TEXT   Policies. (repeatable)
  --folder PATH   Folder; default: none.
  --keep          Keep the files.

 pool options
 --------------------------------------------------------
  Workers of the job.
  --------------------------------------------------------
  --workers INT   Number of workers. (default: 0)
  --share NUMBER  Share of a GPU; default: a whole one.
"""


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["--model", "m", "--help"]])
def test_the_help_page_is_the_docstrings(capsys, monkeypatch, args):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        run_job(Flags, lambda _: 0, name="job.py", args=args)
    assert ended.value.code == 0
    assert capsys.readouterr().out == PAGE


WORDS = {"small": Base, "large": Pool}


def test_a_first_word_chooses_the_flags():
    assert parse_flags(WORDS, name="job.py", args=["small", "--seed", "3"]) == Base(seed=3)
    assert parse_flags(WORDS, name="job.py", args=["large"]) == Pool()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "The first argument must be one of small, large. Got nothing. See job.py --help."),
        (["s"], "The first argument must be one of small, large. Got 's'. See job.py --help."),
        (
            ["small", "--workers", "1"],
            "--workers must come with large. Got it with small. Leave it out.",
        ),
    ],
)
def test_bad_first_words_are_one_line(args, said):
    with pytest.raises(InputError) as refused:
        parse_flags(WORDS, name="job.py", args=args)
    assert str(refused.value) == said


def test_the_help_of_first_words(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_flags(WORDS, name="job.py", args=["--help"])
    assert ended.value.code == 0
    assert "  small  Shared settings.\n  large  Workers.\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parse_flags(WORDS, name="job.py", args=["small", "--help"])
    assert "--seed INT" in capsys.readouterr().out
