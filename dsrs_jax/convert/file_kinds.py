"""What a model's file is, by its content: people give files other endings."""

from __future__ import annotations

import zipfile
from pathlib import Path

CHECKPOINT, PROGRAM, SAFETENSORS = "a checkpoint", "an exported program", "a .safetensors file"
# By a name in the archive, below its one folder or not.
_KINDS = {
    "models/model.json": PROGRAM,
    "serialized_exported_program.json": PROGRAM,  # before PyTorch 2.8
    "constants.pkl": "TorchScript",
    "data.pkl": CHECKPOINT,
}
_ADVICE = {
    CHECKPOINT: "give it a name that ends in .pth",
    PROGRAM: "give it a name that ends in .pt2",
    SAFETENSORS: "give it a name that ends in .safetensors",
    "TorchScript": "give --model FILE.py:NAME, where NAME is the module that it was made of, or "
    "torch.jit.load('...').eval()",
}


def another_kind(file: Path, wanted: str) -> str | None:
    """What a file is instead, and what to do with it, in words that follow its name.

    None where it is of the kind that is wanted, or of none that is known. Only names in an archive
    and the first bytes are looked at.
    """
    kind = _kind(file)
    return None if kind in (None, wanted) else f"is {kind}; {_ADVICE[kind]}"


def _kind(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return SAFETENSORS if _begins_as_safetensors(file) else None
    inside = {*names, *(name.partition("/")[2] for name in names)}
    return next((kind for name, kind in _KINDS.items() if name in inside), None)


def _begins_as_safetensors(file: Path) -> bool:
    """Whether it begins with the size of a header, which is JSON."""
    try:
        with open(file, "rb") as stream:
            head = stream.read(9)
        return head[8:] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size
    except OSError:
        return False
