"""Train the shipped digits DiT and its classifier, and save them as a diffusers folder.

python jobs/pretrain.py --out runs/digits
python jobs/pretrain.py --out runs/quick --steps 300
"""

import sys
from dataclasses import asdict
from pathlib import Path

from pipeline.cli import run_job
from pipeline.errors import work_errors
from pipeline.models.pretrain_config import PretrainConfig, PretrainFlags
from pipeline.redaction import typed_command
from pipeline.storage.output_checks import refuse_not_empty, refuse_unwritable
from pipeline.storage.path_checks import refuse_odd_paths
from pipeline.storage.unfinished_mark import is_unfinished

FLAGS = PretrainFlags
LAST = "provenance.json"
"""File that the job writes last."""


def run(flags: PretrainFlags) -> int:
    refuse_odd_paths(out=flags.out)
    out = Path(flags.out)
    refuse_unwritable(flags.out)
    if not is_unfinished(out, LAST):
        refuse_not_empty(flags.out)
    from pipeline.choices import choices_line, traced, unless_default
    from pipeline.models.digits_pretrain import pretrain
    from pipeline.storage.unfinished_folder import unfinished

    values, usual = asdict(flags.training), asdict(PretrainConfig())
    given = {name: unless_default(value, usual[name]) for name, value in values.items()}
    print(choices_line("pretrain", traced(values, given, {})), flush=True)

    command = typed_command("pretrain.py")
    with work_errors(), unfinished(out, LAST):
        pretrain(flags.training, out, command, lambda line: print(line, flush=True))
    return 0


def main() -> int:
    return run_job(FLAGS, run, name="pretrain.py")


if __name__ == "__main__":
    sys.exit(main())
