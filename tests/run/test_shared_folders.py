"""Two runs in one folder: the second one is refused in one line, and writes nothing there."""

import os
import shlex
from pathlib import Path

import commands
import pytest
from certify_runs import Once, finished

from dsrs_jax.run.main import main
from dsrs_jax.system.folder_lock import held

WORDS = {
    "certify --model MODEL --n 100 --stop 1 --draws sound": "0",
    "attack --model MODEL --stop 1": "0",
    "predict --model MODEL --n 100 --stop 1": "predictions",
    "report FINISHED": "report",
    "train --epochs 1": "0",
}


@pytest.mark.parametrize("words", WORDS)
def test_a_folder_that_another_run_writes_in_is_left_alone(
    words: str, once: Once, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    places = words.replace("MODEL", model).replace("FINISHED", str(finished(once, model)))
    with held(out, WORDS[words]):
        line = f"another run is writing in {out}: process {os.getpid()} on "
        commands.refused(capsys, [*shlex.split(places), "--out", str(out)], line)
    assert [file.name for file in out.rglob("*") if file.is_file()] == [f".lock-{WORDS[words]}"]


def test_a_run_in_progress_can_be_reported_into_its_own_folder(
    once: Once, model: str, tmp_path: Path
) -> None:
    with held(tmp_path):
        assert main(["report", str(finished(once, model)), "--out", str(tmp_path)]) == 0
