"""Runs in which things go wrong: kills, preemption, lost hosts, full disks, damaged images."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from certify_runs import record_files, rows_of, wait_for_more
from PIL import Image
from script_loader import load_script

from dsrs_jax import data

certify_script = load_script("certify.py")
Start = Callable[..., subprocess.Popen[str]]
# Enough work that a run is still at it when it is killed: about 15 seconds on two cores.
WORK = ["--n", "30000", "--q-inside", "0.5"]


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The certificates of a run that nothing happened to, on one device."""
    out = tmp_path_factory.mktemp("whole")
    assert certify_script.main(["--model", model, *WORK, "--out", str(out)]) == 0
    return (out / "certificates.csv").read_bytes()


def test_a_run_killed_at_twenty_random_moments_ends_as_if_it_had_not_been(
    model: str, whole: bytes, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["--model", model, *WORK, "--out", str(out)]
    random = np.random.default_rng(0)
    kills = 0
    while kills < 20:
        # With another batch each time, and now and then on other devices.
        batch = str(random.integers(1, 5000))
        process = start([*command, "--batch", batch], devices=int(random.choice([1, 2])))
        if random.random() < 0.3:  # before anything is written in this turn
            time.sleep(random.uniform(0.0, 4.0))
        elif wait_for_more([process], out, len(record_files(out))):
            time.sleep(random.uniform(0.0, 0.4))
        process.kill()
        process.communicate()
        kills += 1
    assert certify_script.main(command) == 0
    assert (out / "certificates.csv").read_bytes() == whole


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_a_run_soon_in_one_line(
    number: signal.Signals,
    code: int,
    word: str,
    model: str,
    whole: bytes,
    start: Start,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    command = ["--model", model, *WORK, "--out", str(out)]
    process = start(command)
    assert wait_for_more([process], out, 0)
    sent = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    # The scheduler's limit of 10 seconds is part of what is promised.
    assert time.monotonic() - sent < 10.0
    assert process.returncode == code
    assert error == f"certify.py: {word}; the same command continues this run\n"
    assert certify_script.main(command) == 0
    assert (out / "certificates.csv").read_bytes() == whole


def test_terminated_while_a_device_keeps_the_main_thread(tmp_path: Path) -> None:
    """A call that Python cannot interrupt does not hold up the end."""
    program = """
import ctypes, sys
from dsrs_jax.command_line import exit_code
def action():
    print("in", flush=True)
    ctypes.CDLL(None).sleep(60)
sys.exit(exit_code("program", action, interrupted="go on"))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    time.sleep(0.5)
    process.terminate()
    _, error = process.communicate(timeout=30)
    assert process.returncode == 143
    assert error == "program: terminated; go on\n"


def _joined(command: list[str], processes: int) -> list[list[str]]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        [*command, "--coordinator", f"localhost:{port}", "--num-processes", str(processes),
         "--process-id", str(number), "--patience", "3"]
        for number in range(processes)
    ]  # fmt: skip


def test_two_processes_of_four_devices_do_what_one_does(
    model: str, whole: bytes, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    commands = _joined(["--model", model, *WORK, "--out", str(out)], 2)
    processes = [start(command, devices=4) for command in commands]
    for process in processes:
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
    assert record_files(out, 0) and record_files(out, 1)
    assert (out / "certificates.csv").read_bytes() == whole


@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_process_costs_its_share_and_any_number_completes_it(
    killed: int, model: str, whole: bytes, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["--model", model, *WORK, "--out", str(out)]
    processes = [start(one) for one in _joined(command, 2)]
    assert wait_for_more(processes, out, 0, killed)
    processes[killed].kill()
    processes[killed].communicate()
    survivor = processes[1 - killed]
    _, error = survivor.communicate(timeout=600)
    survivors = sum(file.read_text().count("\n") for file in record_files(out, 1 - killed))
    assert survivors == 180  # its whole share
    if killed == 1:  # process 0 gathers the records, and says what is missing
        assert survivor.returncode == 1
        assert error.count("\n") == 1
        assert "missing (lost processes: 1)" in error
        assert f"python scripts/certify.py --model {model}" in error
        assert "--coordinator" not in error
    else:
        assert survivor.returncode == 0
    assert not (out / "certificates.csv").exists()
    # Three processes take up what two began, and agree on what is missing.
    others = [start(one) for one in _joined(command, 3)]
    for process in others:
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
    assert (out / "certificates.csv").read_bytes() == whole


def test_a_full_disk_stops_a_run_in_one_line_and_it_can_go_on(
    model: str, whole: bytes, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["--model", model, *WORK, "--out", str(out)]
    # Files of more than 700 bytes do not fit: config.json does, soon some file of records not.
    limited = [sys.executable, "-c", _LIMITED.format(command=command)]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot write" in done.stderr and "File too large" in done.stderr
    assert certify_script.main(command) == 0
    assert (out / "certificates.csv").read_bytes() == whole


_LIMITED = """
import resource, sys
sys.path.insert(0, "scripts")
import certify
resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))
sys.exit(certify.main({command!r}))
"""


def test_a_damaged_image_is_named_and_all_others_are_certified(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, folder, out = data.load("digits"), tmp_path / "images", tmp_path / "run"
    for index in range(12):
        image, label = digits[index]
        file = folder / str(label) / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(file)
    images = data.load("folder", "test", folder)
    broken = sorted(folder.rglob("*.png"))[4]
    good = broken.read_bytes()
    broken.write_bytes(good[: len(good) // 2])
    command = ["--dataset", "folder", "--data-dir", str(folder), "--model", model]
    command += ["--n", "1000", "--q-inside", "0.5", "--out", str(out)]
    assert certify_script.main(command) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "1 image (index 4) could not be read" in captured.err
    assert str(broken) in captured.out.replace("\n", "")
    rows = rows_of(out)
    assert [row["status"] == "unreadable" for row in rows] == [i == 4 for i in range(12)]
    assert float(rows[4]["radius_dsrs"]) == float(rows[4]["radius_np"]) == 0.0
    assert sum(float(row["radius_dsrs"]) > 0 for row in rows) > 2
    before = {file: file.read_bytes() for file in record_files(out)}
    # Mended, it is drawn, and nothing else is.
    broken.write_bytes(good)
    assert certify_script.main(command) == 0
    mended = rows_of(out)
    assert [int(row["label"]) for row in mended] == [images[i][1] for i in range(12)]
    assert [row for i, row in enumerate(mended) if i != 4] == [
        row for i, row in enumerate(rows) if i != 4
    ]
    new = [file for file in record_files(out) if file not in before]
    assert sum(file.read_text().count("\n") for file in new) == 1
    shutil.rmtree(folder)
    assert certify_script.main(command) == 2
    assert "no such folder" in capsys.readouterr().err
