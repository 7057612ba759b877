"""What `ray job submit --working-dir .` uploads, packed by Ray's own functions."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LIMIT = 40 * 2**20
JUNK = {
    "runs/demo/traces/gates/unit.parquet": 1,
    "mlruns/0/meta.yaml": 1,
    "mlartifacts/dqar/model.safetensors": 1,
    "mlflow.db": 1,
    "mlflow.db-journal": 1,
    ".venv/lib/torch.so": 1,
    ".git/objects/pack": 1,
    "dqar.egg-info/PKG-INFO": 1,
    "build/lib/dqar.py": 1,
    "dist/dqar.whl": 1,
    "dqar/__pycache__/cache.pyc": 1,
    ".hypothesis/examples/a": 1,
    ".env": 1,
    "key.pem": 1,
    ".ray/auth_token": 1,
    "auth_token": 1,
    ".aws/credentials": 1,
}
"""Sizes in MiB of what lies about in a checkout that was worked in."""


@pytest.fixture
def clone(tmp_path):
    """This project's own files, tracked or about to be."""
    command = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            target = tmp_path / "clone" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    return tmp_path / "clone"


@pytest.fixture
def worked_in(clone):
    """The same with what work leaves behind."""
    for name, mebibytes in JUNK.items():
        path = clone / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0" * (mebibytes * 2**20))
    return clone


def pack(folder, target, respect_gitignore=True):
    """Zip a folder as `ray job submit` would, with this project's runtime environment."""
    from ray._private.runtime_env.packaging import create_package
    from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

    def pack_it(working_dir, excludes, is_file=False):
        create_package(working_dir, target, respect_gitignore, excludes=excludes)

    environment = yaml.safe_load((folder / "runtime_env.yaml").read_text())
    upload_working_dir_if_needed(
        environment | {"working_dir": str(folder)}, respect_gitignore, upload_fn=pack_it
    )
    with zipfile.ZipFile(target) as package:
        return set(package.namelist())


def test_an_upload_holds_the_project_and_is_small(worked_in, tmp_path):
    names = pack(worked_in, tmp_path / "package.zip")
    assert (tmp_path / "package.zip").stat().st_size <= LIMIT
    needed = {
        "jobs/collect.py",
        "dqar/control/controller.py",
        "pipeline/cluster/actor_pool.py",
        "constraints.txt",
    }
    assert needed | {"pyproject.toml", "pipeline/models/digits/transformer/config.json"} <= names


@pytest.mark.parametrize("respect_gitignore", [True, False])
def test_what_work_leaves_behind_stays_here(worked_in, tmp_path, respect_gitignore):
    """Also with RAY_RUNTIME_ENV_IGNORE_GITIGNORE=1, as who needs ignored files would set it."""
    names = pack(worked_in, tmp_path / "package.zip", respect_gitignore)
    assert names.isdisjoint(JUNK)
    # An empty folder of an ignored file is packed as itself; nothing is in it.
    assert not [name for name in names if name.startswith((".git/", ".venv/", "runs/"))]


def test_no_file_of_the_project_is_left_behind(clone, tmp_path):
    names = pack(clone, tmp_path / "package.zip")
    assert {str(path.relative_to(clone)) for path in clone.rglob("*") if path.is_file()} == names


def test_the_runtime_environment_is_one_that_ray_takes():
    from ray.runtime_env import RuntimeEnv

    environment = yaml.safe_load((ROOT / "runtime_env.yaml").read_text())
    assert set(environment) == {"env_vars"}
    assert RuntimeEnv(**environment).env_vars() == environment["env_vars"]
