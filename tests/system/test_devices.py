"""Devices that the environment asks for and that are not there: one line, of every command."""

import subprocess
import sys
from pathlib import Path

import commands
import pytest

# Each command as it first needs a device, in a process that has run nothing before.
PROGRAM = """
import sys
from dsrs_jax.run.main import main
commands = [words.split() for words in sys.argv[1:]]
print([main(words) for words in commands])
"""
ASKED = [
    {"JAX_PLATFORMS": "cuda"},
    {"JAX_PLATFORMS": "nonsense"},
    {"XLA_FLAGS": "--xla_force_host_platform_device_count=0"},
]


@pytest.mark.process
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_devices_that_are_not_there_are_told_in_one_line(
    asked: dict[str, str], model: str, tmp_path: Path
) -> None:
    out = f"--out {tmp_path / 'out'}"
    given = f"--model {model} --n 100"
    words = [
        f"certify {given} --stop 1 {out}",
        f"attack --model {model} --stop 1 {out}",
        f"predict {given} --stop 1 {out}",
        f"study draws {given} --images 2 {out}",
        f"train --epochs 1 {out}",
    ]
    environment = commands.environment() | {"XLA_FLAGS": ""} | asked
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, "--version"],
        env=environment, capture_output=True, text=True, timeout=commands.HANGING,
    )  # fmt: skip
    [(name, value)] = asked.items()
    lines = done.stderr.splitlines()
    for line, command in zip(lines, words, strict=True):
        assert line.startswith(f"dsrs-jax {command.split()[0]}: JAX finds no devices with ")
        assert f" {name}={value}" in line and "; unset what asks for devices" in line
    *_, version, codes = done.stdout.splitlines()
    assert version.startswith("devices: JAX finds no devices with ")
    assert codes == "[2, 2, 2, 2, 2, 0]"
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
