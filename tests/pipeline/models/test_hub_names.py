"""Names of models that are looked up on the hub, or are refused before it is asked."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest

from pipeline.errors import InputError
from pipeline.models.model_info import find_model


@pytest.mark.parametrize(
    "name", ["", " ", "..", "a/..", "a/b/c", "a--b/c", "x" * 300, "x/" + "y" * 300, "a\nb", "a\0b"]
)
def test_a_text_that_names_no_model_is_refused_without_the_hub(name, monkeypatch):
    for asked in ("snapshot_download", "HfApi"):
        monkeypatch.setattr(f"huggingface_hub.{asked}", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(InputError, match=r"^--model ") as caught:
        find_model(name)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1000


@pytest.mark.slow
def test_a_hub_that_never_answers_is_told_within_seconds(tmp_path):
    """In a process of its own, since the hub's address is read when its library is imported."""
    script = textwrap.dedent(
        """
        from pipeline.errors import InputError
        from pipeline.models.model_info import find_model
        try:
            find_model("owner/name")
        except InputError as refusal:
            print(refusal)
        """
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(20)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env=os.environ | settings | {"PYTHONPATH": ":".join(sys.path), "NO_PROXY": "*"},
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("--model owner/name must be on the hub or in its cache. Got: ")
    assert done.stdout.count("\n") == 1
