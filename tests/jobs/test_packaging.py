"""What `ray job submit --working-dir .` uploads, packed by Ray's own functions."""

import re
import shutil
import subprocess
import zipfile
from pathlib import Path, PurePosixPath

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
}
"""Sizes in MiB of what lies about in a checkout that was worked in."""
SECRETS = (
    *(".env", ".env.production", "prod.env", ".envrc", ".netrc", ".pypirc", ".git-credentials"),
    *(".aws/credentials", ".aws/config", ".ssh/id_rsa", ".ssh/config", ".kube/config"),
    *(".azure/token.json", ".config/gcloud/credentials.db", ".docker/config.json"),
    *(".ray/auth_token", "auth_token", "kubeconfig", "kubeconfig.yaml", ".huggingface/token"),
    *("credentials", "credentials.json", "credentials.csv", "gcp-credentials.json"),
    *("client_secret_1.json", "application_default_credentials.json", "basic_auth.ini"),
    *("service-account.json", "service_account_dev.json", "my-service-account.json"),
    *("project-key.json", "id_rsa", "id_rsa.pub", "id_ed25519", "id_ecdsa", "id_dsa"),
    *("server.pem", "server.key", "server.p12", "store.pfx", "store.jks", "key.ppk", "pass.kdbx"),
    *("secrets.yaml", "secrets.toml", ".htpasswd", "private.asc", "private.gpg"),
)
"""Names that credentials have; none of them may travel, wherever it lies in the checkout."""


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
    for name in (place + secret for place in ("", "configs/mine/") for secret in SECRETS):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text("canary")
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
    files = {name.removeprefix("configs/mine/") for name in names}
    assert files.isdisjoint(SECRETS)
    # An empty folder of an ignored file is packed as itself; nothing is in it.
    assert not [name for name in names if name.startswith((".git/", ".venv/", "runs/"))]


def test_no_file_of_the_project_is_left_behind(clone, tmp_path):
    names = pack(clone, tmp_path / "package.zip")
    ours = {str(path.relative_to(clone)) for path in clone.rglob("*") if path.is_file()}
    assert ours == names
    assert {name for name in ours if is_left_out(name)} == set()


def is_left_out(name):
    """Return True if .dockerignore leaves a path out of the image.

    Docker's rules: a pattern matches a path from the root, ``*`` no slash, ``**`` any folders; with
    a folder all that is in it is left out.
    """
    above = [name, *map(str, PurePosixPath(name).parents)]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert not any(line.startswith("!") for line in patterns)
    rules = [_docker_rule(pattern) for pattern in patterns]
    return any(re.fullmatch(rule, path) for rule in rules for path in above)


def _docker_rule(pattern):
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    rules = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(rules.get(part, re.escape(part)) for part in parts)


@pytest.mark.parametrize("place", ["", "configs/mine/"])
def test_no_secret_is_copied_into_the_image(place):
    assert [name for name in SECRETS if not is_left_out(place + name)] == []
    assert is_left_out("runs/demo/policy.json")
    assert not is_left_out("pipeline/models/digits/transformer/config.json")


def test_the_runtime_environment_is_one_that_ray_takes():
    from ray.runtime_env import RuntimeEnv

    environment = yaml.safe_load((ROOT / "runtime_env.yaml").read_text())
    assert set(environment) == {"env_vars"}
    assert RuntimeEnv(**environment).env_vars() == environment["env_vars"]
