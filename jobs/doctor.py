"""Check a cluster before a long job: one line for each check, FAIL with its fix.

    python jobs/doctor.py                                    # this machine, with a local Ray
    RAY_ADDRESS=http://127.0.0.1:8265 python jobs/doctor.py --out s3://BUCKET/traces \\
        --tracking-uri http://HEAD:5000 --accelerator-type A100      # submits itself as a job

Exit code 0 if all checks pass, 1 if one fails, 2 for a bad argument.
"""

import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline.cli import run_job
from pipeline.doctor.config import DoctorConfig
from pipeline.redaction import without_secrets
from pipeline.storage.path_checks import inside_ray_job, refuse_odd_paths

FLAGS = DoctorConfig
INSTALL = "Run pip install -c constraints.txt -e . on this machine, or use an image that has it."
ROOT = Path(__file__).parent.parent


def run(config: DoctorConfig) -> int:
    refuse_odd_paths(out=config.out, model=config.model)
    try:
        from pipeline.doctor.run import examine
    except ImportError as error:
        # Without a library that the doctor itself needs, such as torch, it can only say so.
        print(f"FAIL  driver versions  {' '.join(str(error).split())}. {INSTALL}", flush=True)
        return 1
    address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    if address.startswith("http") and not inside_ray_job():
        return submit_itself(address, config)
    is_ready = True
    for finding in examine(config):
        print(finding, flush=True)
        is_ready &= finding.is_ok
    print(
        "All is well." if is_ready else "Not ready: see the fix on each line marked FAIL.",
        flush=True,
    )
    return 0 if is_ready else 1


def submit_itself(address: str, config: DoctorConfig) -> int:
    """Submit the doctor as a job: packed, uploaded, run on the head; return its exit code."""
    from pipeline.doctor.checks import check_libraries
    from pipeline.doctor.host_info import read_host_info
    from pipeline.doctor.run import check_job_server, pins_of

    pins = pins_of(ROOT)
    client = check_libraries("client", read_host_info(pins.needed), pins)
    print(client, flush=True)
    server = check_job_server(address)
    if not server.is_ok:
        print(server, flush=True)
        return 1
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in asdict(config).items()
        if value is not None
    ]
    entry = ["--", "python", "jobs/doctor.py", *flags]
    packing = ["--working-dir", str(ROOT), "--runtime-env", str(ROOT / "runtime_env.yaml")]
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "job", "submit", "--address", address, *packing, *entry]
    print(f"submitting: {without_secrets(shlex.join(entry[1:]))}", flush=True)
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return code or int(not client.is_ok)


def main() -> int:
    return run_job(FLAGS, run, name="doctor.py")


if __name__ == "__main__":
    sys.exit(main())
