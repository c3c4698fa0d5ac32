"""The command itself: what it can do, how it says so, and what it does not need for it."""

import importlib.metadata
import os
import runpy
import shutil
import signal
import sys
import types
from pathlib import Path

import commands
import flax
import jax
import numpy as np
import pytest
from certify_runs import FINISHED, Once, finished

from dsrs_jax import models
from dsrs_jax.run.main import COMMANDS, main


def test_without_a_command_all_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    listed = capsys.readouterr().out
    assert main(["--help"]) == main(["-h"]) == 0
    assert capsys.readouterr().out == 2 * listed
    assert all(f"\n  {name} " in listed for name in COMMANDS)
    assert all(len(line) <= 80 for line in listed.splitlines())
    assert main(["certfy", "--n", "3"]) == 2
    known = ", ".join(COMMANDS)
    printed = capsys.readouterr()
    assert printed == ("", f"dsrs-jax: no command 'certfy'; known: {known}\n")


@pytest.mark.process  # it asks the system what machine this is
def test_the_version_says_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"dsrs_jax {importlib.metadata.version('dsrs_jax')}" in lines
    assert f"jax {jax.__version__}" in lines and f"flax {flax.__version__}" in lines
    assert f"devices: {jax.device_count()} x {jax.devices()[0].device_kind}" in lines


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_its_script_have_a_help_that_fits_on_two_screens(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith(f"usage: dsrs-jax {command} ") and "most used:" in lines
    assert sum(max(1, -(-len(line) // 80)) for line in lines) <= 80  # as a terminal breaks them
    assert printed.err == ""
    script = str(commands.ROOT / "scripts" / f"{command}.py")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    runpy.run_path(script, run_name="__main__")
    assert capsys.readouterr() == printed


@pytest.mark.process
def test_a_run_is_proved_without_jax(once: Once, model: str) -> None:
    program = """
import sys
from dsrs_jax.run.main import main
code = main(["prove", sys.argv[1], "--processes", "1"])
print(code, "jax" in sys.modules)
"""
    done = commands.python("-c", program, str(finished(once, model)))
    assert done.stderr == ""
    rows, draws, code = done.stdout.splitlines()
    assert rows.startswith("18 rows: ") and " 0 unproved, " in rows
    assert draws.startswith("Proved: of ") and "2,000 of P" in draws
    assert code == "0 False"


@pytest.mark.process
def test_a_signal_to_all_processes_of_a_proof_ends_it_in_one_line(
    once: Once, model: str, tmp_path: Path
) -> None:
    """As a scheduler sends it: to the command, its workers and Python's own helper."""
    out = shutil.copytree(finished(once, model), tmp_path / "run")
    proofs = out / "proofs.jsonl"
    proofs.unlink()
    process = commands.start(["certify", "--model", model, *FINISHED, "--out", str(out)])
    commands.wait_until(lambda: proofs.exists() and proofs.stat().st_size, process)
    process.send_signal(signal.SIGSTOP)
    os.killpg(process.pid, signal.SIGUSR1)
    line = "dsrs-jax certify: ended by SIGUSR1; the same command continues this run\n"
    assert commands.end(process, signal.SIGCONT) == (138, line)


def test_a_file_is_proved_as_its_run_is(
    once: Once, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, one = finished(once, model), ["--processes", "1"]
    capsys.readouterr()
    assert main(["prove", str(run), *one]) == 0
    of_the_run = capsys.readouterr().out
    assert "18 rows: " in of_the_run and " 0 unproved, " in of_the_run
    assert main(["prove", str(run / "certificates.csv"), *one]) == 0
    assert capsys.readouterr().out == of_the_run
    # Where a radius is not proved, 1.
    longer = tmp_path / "certificates.csv"
    header, first, *rest = (run / "certificates.csv").read_text().splitlines()
    cells = first.split(",")
    cells[header.split(",").index("radius_dsrs")] = "9.0"
    longer.write_text("\n".join([header, ",".join(cells), *rest, ""]))
    assert main(["prove", str(longer), *one]) == 1
    line = "unproved: row 1 (index 0), radius_dsrs: radius_dsrs is above the ceiling"
    assert line in capsys.readouterr().out


def test_a_file_of_tensors_becomes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyTorch; the package `safetensors`, which comes with it, is a stand-in here."""
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}
    shapes = {f"{name}.weight": shape for name, shape in shapes.items()}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    random = np.random.default_rng(0)
    tensors = {name: random.random(shape, np.float32) for name, shape in shapes.items()}
    entries = [
        (name, {"dtype": "F32", "shape": tensor.shape, "data": tensor.tobytes()})
        for name, tensor in tensors.items()
    ]
    stand_in = types.SimpleNamespace(deserialize=lambda content: content and entries)
    monkeypatch.setitem(sys.modules, "safetensors", stand_in)
    file, out = tmp_path / "lenet.safetensors", tmp_path / "model"
    file.write_text("tensors")
    assert main(["convert", str(file), str(out), "--arch", "lenet", "--sigma", "0.5"]) == 0
    found = models.load_model(out)
    assert (found.metadata.arch, found.metadata.sigma, found.metadata.k) == ("lenet", 0.5, 0.0)
    names, leaves = models.parameters_of(found.metadata), jax.tree.leaves(found.state)
    arrays = dict(zip(names, map(np.asarray, leaves), strict=True))
    kernel = tensors["conv2.weight"].transpose(2, 3, 1, 0)  # from (out, in, H, W)
    np.testing.assert_array_equal(arrays["conv2.kernel"], kernel)
    # PyTorch flattens (C, H, W), our network (H, W, C).
    kernel = tensors["fc1.weight"].reshape(500, 50, 4, 4).transpose(2, 3, 1, 0).reshape(800, 500)
    np.testing.assert_array_equal(arrays["fc1.kernel"], kernel)
    np.testing.assert_array_equal(arrays["fc2.bias"], tensors["fc2.bias"])


@pytest.mark.process
@pytest.mark.parametrize("how", [["-m", "dsrs_jax", "prove"], ["scripts/prove.py"]], ids=" ".join)
def test_a_mistake_is_the_process_s_exit_code(how: list[str]) -> None:
    *options, last = how
    place = str(commands.ROOT / last) if last.endswith(".py") else last
    done = commands.python(*options, place, "no/such/run")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "dsrs-jax prove: cannot read no/such/run: No such file or directory\n"
