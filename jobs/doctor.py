"""Look a cluster over before a long job: one line for each check, FAIL with its mend.

    python jobs/doctor.py                                    # this machine, a Ray of its own
    RAY_ADDRESS=http://127.0.0.1:8265 python jobs/doctor.py --out s3://BUCKET/traces \\
        --tracking-uri http://HEAD:5000 --accelerator-type A100      # submits itself as a job

Exit code 0 if all is well, 1 if not, 2 for a bad argument.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from pipeline.cli import JobParser, enter
from pipeline.errors import checked, without_secrets
from pipeline.storage.output_checks import inside_ray_job, refuse_relative_inside_job

ROOT = Path(__file__).parent.parent
CONFIG = ("model", "out", "tracking_uri", "accelerator_type", "timeout_s")


def run(arguments: argparse.Namespace) -> int:
    refuse_relative_inside_job(out=arguments.out)
    from pipeline.doctor.run import DoctorConfig, examine

    fields = {name: getattr(arguments, name) for name in CONFIG}
    config = checked(DoctorConfig, **fields)
    address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    if address.startswith("http") and not inside_ray_job():
        return submit_itself(address, fields)
    is_well = True
    for finding in examine(config):
        print(finding, flush=True)
        is_well &= finding.is_ok
    print("All is well." if is_well else "Not ready: mend what FAILs above.", flush=True)
    return 0 if is_well else 1


def submit_itself(address: str, fields: dict[str, object]) -> int:
    """The route of every job: packed, uploaded, run on the head, its exit code brought back."""
    from pipeline.doctor.checks import check_libraries
    from pipeline.doctor.host_info import read_host_info
    from pipeline.doctor.run import pins_of

    pins = pins_of(ROOT)
    client = check_libraries("client", read_host_info(pins.needed), pins)
    print(client, flush=True)
    flags = [
        f"--{name.replace('_', '-')}={value}" for name, value in fields.items() if value is not None
    ]
    entry = ["--", "python", "jobs/doctor.py", *flags]
    packing = ["--working-dir", str(ROOT), "--runtime-env", str(ROOT / "runtime_env.yaml")]
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "job", "submit", "--address", address, *packing, *entry]
    print(f"submitting: {without_secrets(shlex.join(entry[1:]))}", flush=True)
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return code or int(not client.is_ok)


def parser() -> JobParser:
    job = JobParser("Check versions, Ray, storage, MLflow, accelerators and room of a cluster.")
    job.add_argument("--model", help="a model that workers must find; default: none")
    job.add_argument("--out", help="storage that workers must write to; default: none")
    job.add_argument("--tracking-uri", help="MLflow that workers must reach; default: none")
    job.add_argument("--accelerator-type", help="what a worker must get, such as A100")
    job.add_argument(
        "--timeout-s", type=float, default=300.0, help="longest wait for a worker's answer"
    )
    return job


if __name__ == "__main__":
    sys.exit(enter(parser(), run))
