"""Mutants of the collection's driver, quarantine, folder storage and identity of a model."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

DRIVER = "pipeline/collect/driver.py"
FOLDER = "pipeline/storage/local_folder.py"
IDENTITY = "pipeline/models/identity.py"
TEST_DRIVER = ("tests/pipeline/collect/test_driver.py",)
DURABLE = "pipeline/storage/durable_write.py"
TEST_FOLDER = (
    "tests/pipeline/storage/test_local_folder.py",
    "tests/pipeline/storage/test_object_store.py",
)
TEST_IDENTITY = ("tests/pipeline/models/test_identity.py",)

PIPELINE_MUTANTS = (
    Mutant(
        fault="a collection is hopeless one unit late",
        file="pipeline/collect/quarantine.py",
        old="len(given_up) < min(HOPELESS, num_missing)",
        new="len(given_up) <= min(HOPELESS, num_missing)",
        tests=("tests/pipeline/collect/test_quarantine.py",),
    ),
    Mutant(
        fault="a replaced driver quarantines",
        file=DRIVER,
        old="                check_not_fenced()\n                given_up",
        new="                given_up",
        tests=TEST_DRIVER,
    ),
    Mutant(
        fault="a replaced driver publishes the first manifest",
        file=DRIVER,
        old="    check_not_fenced()\n    return",
        new="    return",
        tests=TEST_DRIVER,
    ),
    Mutant(
        fault="a collection does not know its lease",
        file="pipeline/collect/run.py",
        old=", check_not_fenced=lease.check_not_fenced",
        new="",
        tests=("tests/pipeline/collect/test_run.py",),
    ),
    Mutant(
        fault="a unit that is done stays in quarantine",
        file=DRIVER,
        old="                release(storage, put_aside & {outcome.unit.unit_id})\n",
        new="",
        tests=TEST_DRIVER,
    ),
    Mutant(
        fault="a file is not synced",
        file=DURABLE,
        old="        os.fsync(stream.fileno())\n",
        new="",
        tests=TEST_FOLDER,
    ),
    Mutant(
        fault="the folder of a new file is not synced",
        file=FOLDER,
        old="            sync(target.parent)\n",
        new="",
        tests=TEST_FOLDER,
    ),
    Mutant(
        fault="a new folder is not synced into the folder above it",
        file=DURABLE,
        old="        sync(one.parent)\n",
        new="        pass\n",
        tests=TEST_FOLDER,
    ),
    Mutant(
        fault="a created file keeps its temporary name",
        file=FOLDER,
        old="                    temporary.unlink(missing_ok=True)\n",
        new="                    pass\n",
        tests=TEST_FOLDER,
    ),
    Mutant(
        fault="creation replaces a file",
        file=FOLDER,
        old="self._publish(key, data, os.link)",
        new="self._publish(key, data, os.replace)",
        tests=TEST_FOLDER,
    ),
    Mutant(
        fault="foreign files with an underscore are deleted",
        file=FOLDER,
        old="if PARTIAL.fullmatch(path.name):",
        new='if path.name.startswith("_"):',
        tests=TEST_FOLDER,
    ),
    Mutant(
        fault="a renamed weights file changes no identity",
        file=IDENTITY,
        old='path.name.encode() + b"\\0" + ',
        new="",
        tests=TEST_IDENTITY,
    ),
    Mutant(
        fault="the order of settings changes an identity",
        file=IDENTITY,
        old="json.dumps(kept, sort_keys=True)",
        new="json.dumps(kept)",
        tests=TEST_IDENTITY,
    ),
    Mutant(
        fault="a large file of the same size and time is not read again",
        file=IDENTITY,
        old=", about.st_mtime_ns, about.st_ctime_ns)",
        new=", about.st_mtime_ns)",
        tests=TEST_IDENTITY,
    ),
    Mutant(
        fault="a damaged digest is believed",
        file=IDENTITY,
        old="if len(remembered) == 64 and set",
        new="if set",
        tests=TEST_IDENTITY,
    ),
)
