"""Train the shipped digits DiT and its classifier, and save them as a diffusers folder.

python jobs/pretrain.py --out runs/digits
python jobs/pretrain.py --out runs/quick --steps 300
"""

import shlex
import sys
from pathlib import Path

from pipeline.cli import run_job
from pipeline.models.pretrain_config import PretrainFlags
from pipeline.storage.output_checks import refuse_not_empty
from pipeline.storage.path_checks import refuse_odd_paths

FLAGS = PretrainFlags


def run(flags: PretrainFlags) -> int:
    refuse_odd_paths(out=flags.out)
    refuse_not_empty(flags.out)
    from pipeline.models.digits_pretrain import pretrain

    command = "python jobs/pretrain.py " + shlex.join(sys.argv[1:])
    pretrain(flags.training, Path(flags.out), command, lambda line: print(line, flush=True))
    return 0


def main() -> int:
    return run_job(FLAGS, run, name="pretrain.py")


if __name__ == "__main__":
    sys.exit(main())
