"""Train the shipped digits DiT and its classifier, and save them as a diffusers folder.

python jobs/pretrain.py --out runs/digits
python jobs/pretrain.py --out runs/quick --steps 300
"""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline.cli import run_job
from pipeline.errors import InputError, work_errors
from pipeline.models.pretrain_config import PretrainConfig, PretrainFlags
from pipeline.storage.output_checks import refuse_relative_inside_job, refuse_unwritable

FLAGS = PretrainFlags


def run(flags: PretrainFlags) -> int:
    refuse_relative_inside_job(out=flags.out)
    out = Path(flags.out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out must be an empty or new folder. Got {flags.out}. Name another.")
    refuse_unwritable(flags.out)
    from pipeline.choices import choices_line, traced, unless_default
    from pipeline.models.digits_pretrain import pretrain

    values, usual = asdict(flags.training), asdict(PretrainConfig())
    given = {name: unless_default(value, usual[name]) for name, value in values.items()}
    print(choices_line("pretrain", traced(values, given, {})), flush=True)

    command = "python jobs/pretrain.py " + shlex.join(sys.argv[1:])
    with work_errors():
        pretrain(flags.training, out, command, lambda line: print(line, flush=True))
    return 0


def main() -> int:
    return run_job(FLAGS, run, name="pretrain.py")


if __name__ == "__main__":
    sys.exit(main())
