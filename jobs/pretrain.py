"""Train the shipped digits DiT and write it as a diffusers folder.

python jobs/pretrain.py --out runs/digits
python jobs/pretrain.py --out runs/quick --steps 300
"""

import argparse
import shlex
import sys
from pathlib import Path

from pipeline.cli import JobParser, enter
from pipeline.errors import InputError, checked
from pipeline.storage.output_checks import refuse_relative_inside_job, refuse_unwritable


def run(arguments: argparse.Namespace) -> int:
    refuse_relative_inside_job(out=arguments.out)
    out = Path(arguments.out)
    if out.exists() and any(out.iterdir()):
        raise InputError(
            f"--out must be an empty or new folder. Got {arguments.out}. Name another."
        )
    refuse_unwritable(arguments.out)
    from pipeline.models.digits_pretrain import PretrainConfig, pretrain

    names = ("steps", "num_layers", "head_dim", "beta_schedule", "seed")
    config = checked(PretrainConfig, **{name: getattr(arguments, name) for name in names})
    command = "python jobs/pretrain.py " + shlex.join(sys.argv[1:])
    pretrain(config, out, command, lambda line: print(line, flush=True))
    return 0


def parser() -> JobParser:
    job = JobParser("Train the shipped digits DiT and its classifier.")
    job.add_argument("--out", required=True, help="folder to write, new or empty")
    job.add_argument("--steps", type=int, default=5000, help="AdamW steps")
    job.add_argument("--num-layers", type=int, default=8, help="transformer blocks")
    job.add_argument("--head-dim", type=int, default=24, help="width of each of the four heads")
    job.add_argument(
        "--beta-schedule",
        choices=["linear", "squaredcos_cap_v2"],
        default="linear",
        help="noise schedule: linear as DiT's, or cosine",
    )
    job.add_argument("--seed", type=int, default=0, help="seed of weights, batches and noise")
    return job


if __name__ == "__main__":
    sys.exit(enter(parser(), run))
