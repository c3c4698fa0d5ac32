"""A model's file under the ending of another kind: the command says what it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import refused
from networks import small_classifier

pytestmark = pytest.mark.torch


def write_program(file: Path) -> None:
    program = torch.export.export(small_classifier(), (torch.zeros(2, 1, 8, 8),))
    torch.export.save(program, file)


def write_script(file: Path) -> None:
    torch.jit.save(torch.jit.script(small_classifier()), file)


def write_checkpoint(file: Path) -> None:
    torch.save(small_classifier().state_dict(), file)


def write_safetensors(file: Path) -> None:
    safetensors.torch.save_file(small_classifier().state_dict(), file)


def write_code(file: Path) -> None:
    file.write_text("model = 1\n")


@pytest.mark.parametrize(
    ("write", "endings", "said"),
    [
        (write_program, ".pt .pth.tar .PT2 .safetensors", "is an exported program; give it a name"),
        (write_script, ".pt .pt2 .safetensors", "is TorchScript; give --model FILE.py:NAME"),
        (write_checkpoint, ".pt2 .safetensors", "is a checkpoint; give it a name that ends in"),
        (write_safetensors, ".pt .pth .pt2", "is a .safetensors file; give it a name that ends"),
        (write_code, ".py", "is code; say what in it is the model: --model"),
    ],
)
def test_the_error_names_what_a_file_is(
    write: Callable[[Path], None],
    endings: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / "content.pt2")
    for ending in endings.split():
        file = (tmp_path / "content.pt2").rename(tmp_path / f"m{ending}")
        words = ["certify", "--model", str(file), "--sigma", "0.25", "--k", "0"]
        refused(capsys, [*words, "--out", str(tmp_path / "run")], f"{file} {said}")
        file.rename(tmp_path / "content.pt2")
    assert not (tmp_path / "run").exists()
