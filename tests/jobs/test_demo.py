"""Demonstration from end to end: the jobs succeed, files are left, processes are not, and MLflow
opens on the comparison in a real browser."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.traces import read_trajectories

CHECKOUT = Path(__file__).parents[2]
JOB = CHECKOUT / "jobs" / "demo.py"
LINES = ("fewer-steps", "interval", "interval-forecast2", "threshold", "learned")
"""Methods that must be lines of the chart; the demonstration measures further ones."""
SCREENSHOTS = os.environ.get("DQAR_SCREENSHOTS")
"""Folder for pictures of the pages, such as docs/images; none are kept without it."""


@pytest.fixture(scope="module")
def scratch():
    """A short temporary folder: Ray's sockets have long names and a limit of 107 bytes."""
    folder = tempfile.mkdtemp(prefix="d")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory, scratch):
    """Folder and output of a small demonstration."""
    out = tmp_path_factory.mktemp("demo") / "out"
    flags = ["--num-trajectories", "24", "--num-samples", "4", "--steps", "12"]
    ended = subprocess.run(
        [sys.executable, JOB, "--out", out, *flags],
        env=os.environ | {"TMPDIR": scratch},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return out, ended.stdout


def processes_about(*places: str) -> list[str]:
    """Command lines that mention one of the places."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if any(place in line for place in places):
            found.append(line)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demonstration_works_and_leaves_no_process(demo, scratch):
    out, _ = demo
    rows = json.loads((out / "results" / "results.json").read_text())
    assert {"baseline", "interval", "learned"} <= {row["method"] for row in rows}
    assert read_trajectories(str(out / "traces")).num_rows == 24
    for name in ("mlflow.db", "policy/policy.json", "results/frontier.png", "results/report.html"):
        assert (out / name).stat().st_size > 0
    deadline = time.monotonic() + 30
    while (left := processes_about(str(out), scratch)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
    assert not list(Path(scratch).glob("dqar-*"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demonstration_says_what_to_ship_in_its_own_words_alone(demo):
    out, printed = demo
    assert "\nShip " in printed
    assert "INFO worker.py" not in printed
    assert "INFO worker.py" in (out / "logs" / "collect.log").read_text()
    assert "calibrate learned: " in printed
    table_and_decision = printed.partition("\nRelative L2 error")[2].partition("\nCompare:")[0]
    for line in table_and_decision.splitlines():
        # Paths of this test are longer than those of a user.
        assert len(line.replace(str(out), "runs/demo")) <= 100, line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--port", "70000"), "--port must be from 0 to 65535. Got 70000"),
        (("--port", "-1"), "--port must be from 0 to 65535. Got -1"),
        (("--num-trajectories", "3"), "--num-trajectories must be from 4 to"),
        (("--steps", "1001"), "--steps must be from 2 to 1000"),
        (("--num-samples", "0"), "--num-samples must be from 1 to"),
        (("--out", "file"), "it is a file"),
        (("--out", "file", "--ui"), "it is a file"),
        (("--out", "logged"), "logs in the way: it is a file"),
        (("--out", "nowhere", "--ui"), "which has no mlflow.db"),
        (("--out", "."), "holds other files"),
        (("--out", "://x"), "--out must be a folder on this machine"),
    ],
)
def test_bad_input_is_refused_before_a_server_starts(refused, tmp_path, flags, said):
    (tmp_path / "file").touch()
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "logs").touch()
    assert said in refused("demo", *flags)


def test_a_relative_out_is_refused_inside_a_ray_job(refused, monkeypatch):
    # The fixture that runs jobs removes the variable first.
    monkeypatch.setattr("pipeline.storage.path_checks.inside_ray_job", lambda: True)
    assert "--out must be absolute inside a Ray job" in refused("demo", "--out", "runs")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_servers_end_with_the_demonstration(tmp_path, scratch, number):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "mlflow.db").touch()
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(
            [sys.executable, JOB, "--out", out, "--ui", "--port", "0"],
            env=os.environ | {"TMPDIR": scratch},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 200
    while b"Open http" not in (tmp_path / "log").read_bytes():
        assert job.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(processes_about(str(out))) > 1
    job.send_signal(number)
    expected = {signal.SIGTERM: 143, signal.SIGKILL: -9, signal.SIGINT: 0}
    assert job.wait(timeout=60) == expected[number]
    await_no_process(str(out), scratch)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_printed_command_samples_pictures(demo, tmp_path):
    _, printed = demo
    line = next(line for line in printed.splitlines() if line.startswith("Sample:"))
    words = shlex.split(line.removeprefix("Sample:"))
    words[-1] = str(tmp_path / "samples")
    store = ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    subprocess.run([*words, *store], cwd=CHECKOUT, check=True, timeout=500)
    assert (tmp_path / "samples" / "samples.png").stat().st_size > 0


@contextmanager
def served(out: Path):
    """Serve the MLflow UI of a demonstration; yield the link that is printed."""
    port = free_port()
    command = [sys.executable, JOB, "--out", out, "--ui", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("Open http"), line
            yield line.split()[1]
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def page():
    """Page of a headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(180_000)
        yield page
        browser.close()


def picture(page, name: str) -> None:
    if SCREENSHOTS is not None:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png")


def opened(page, link: str):
    """Click a link of the experiment's description; return the tab that it opens."""
    with page.context.expect_page() as tab:
        page.get_by_role("link", name=link, exact=True).first.click()
    tab.value.set_viewport_size({"width": 1400, "height": 1000})
    tab.value.set_default_timeout(180_000)
    return tab.value


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mlflow_opens_on_the_comparison(demo, page):
    out, _ = demo
    with served(out) as link:
        started = time.monotonic()
        page.goto(link, timeout=180_000)
        page.wait_for_selector(".scatterlayer .trace")
        for name in LINES:
            assert page.get_by_text(name, exact=True).first.is_visible(), name
        drawn = page.eval_on_selector_all(
            ".scatterlayer .trace path.js-line", "lines => lines.map(one => one.getAttribute('d'))"
        )
        assert len([line for line in drawn if line and "L" in line]) >= len(LINES)
        print(f"chart: 0 clicks, {time.monotonic() - started:.1f} s")
        picture(page, "mlflow-comparison")

        report = opened(page, "Report")
        frame = report.wait_for_selector("iframe").content_frame()
        frame.wait_for_selector("text=Ship ")
        print(f"report: 1 click, {time.monotonic() - started:.1f} s")
        picture(report, "mlflow-report")

        reused = opened(page, "what is reused")
        reused.locator("img[src^='blob:']:visible").first.wait_for()
        picture(reused, "mlflow-reuse-map")

        policy = opened(page, "policy")
        policy.get_by_text("champion").first.wait_for()
        policy.get_by_text("Version 1").first.click()
        policy.get_by_text("rel_l2_at_2x_fewer_flops").first.wait_for()
        policy.get_by_text("95% interval").first.wait_for()
        print(f"policy: 2 clicks, {time.monotonic() - started:.1f} s")
        picture(policy, "mlflow-policy")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ray_ends_with_the_demonstration(tmp_path, scratch, number):
    out = tmp_path / "demo"
    job = subprocess.Popen(
        [sys.executable, JOB, "--out", out],
        env=os.environ | {"TMPDIR": scratch},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not any("raylet" in line for line in processes_about(scratch)):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.5)
    time.sleep(5)
    job.send_signal(number)
    job.wait(timeout=90)
    await_no_process(str(out), scratch)


def await_no_process(*places: str) -> None:
    deadline = time.monotonic() + 60
    while (left := processes_about(*places)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
