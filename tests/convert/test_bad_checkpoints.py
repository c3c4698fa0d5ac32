"""Checkpoints that are damaged, hostile or of another network: one line, and nothing is run."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsrs_jax.run.main import main

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from checkpoints import saved  # noqa: E402  (needs torch)


class Runs:
    """What an attacker would put into a pickle."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("executed"),))


def _write_bad(kind: str, file: Path) -> None:
    good = saved(file.parent, "lenet")
    content = good.read_bytes()
    state = torch.load(good, weights_only=True)["state_dict"]
    if kind == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "text":
        file.write_text("not a checkpoint\n")
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(["some", "list"]))
    elif kind == "list":
        torch.save([1, 2], file)
    elif kind == "no known key":
        torch.save({"epoch": 3, "weights": state, "a\nb": 1}, file)
    elif kind == "an array":
        torch.save({"model": state | {"1.fc1.bias": np.ones(3)}}, file)
    elif kind == "a name of two lines":
        torch.save({"arch": "lenet", "net": state | {"a\nb": torch.ones(3)}}, file)
    elif kind == "no tensors":
        torch.save({"arch": "lenet", "net": {}}, file)
    elif kind == "another network":
        renamed = {f"features.{name}": tensor for name, tensor in state.items()}
        torch.save({"arch": "lenet", "net": renamed}, file)
    elif kind == "code":
        torch.save({"arch": "lenet", "state_dict": state, "x": Runs()}, file)
    elif kind == "code in a plain pickle":
        file.write_bytes(pickle.dumps(Runs()))
    elif kind == "arch":
        torch.save({"arch": "vit_b_16", "state_dict": state}, file)
    elif kind == "missing":
        del state["1.fc1.bias"]
        torch.save({"arch": "lenet", "state_dict": state}, file)
    elif kind == "extra":
        torch.save({"arch": "lenet", "state_dict": state | {"1.fc3.bias": torch.ones(3)}}, file)
    elif kind == "extra by another kind of name":
        torch.save({"arch": "lenet", "state_dict": state | {"1.": torch.ones(3)}}, file)
    elif kind == "a layer missing":
        layers = saved(file.parent, "mnist_43")
        state = torch.load(layers, weights_only=True)["state_dict"]
        kept = {name: tensor for name, tensor in state.items() if not name.startswith("1.9.")}
        torch.save({"arch": "mnist_43", "state_dict": kept}, file)
    elif kind == "a layer more":
        layers = saved(file.parent, "mnist_43")
        state = torch.load(layers, weights_only=True)["state_dict"]
        more = {"1.13b.weight": torch.ones(3), "1.": torch.ones(3), "": torch.ones(3)}
        torch.save({"arch": "mnist_43", "state_dict": state | more}, file)
    elif kind == "sparse":
        state["1.fc2.weight"] = state["1.fc2.weight"].to_sparse()
        torch.save({"arch": "lenet", "state_dict": state}, file)
    elif kind in ("nan", "infinite"):
        state["1.fc2.bias"][2:5] = float("nan" if kind == "nan" else "-inf")
        torch.save({"arch": "lenet", "state_dict": state}, file)
    elif kind == "too large for float32":
        state["1.conv1.bias"] = state["1.conv1.bias"].double()
        state["1.conv1.bias"][0] = 1e39
        torch.save({"arch": "lenet", "state_dict": state}, file)
    elif kind == "negative variance":
        normalised = torch.load(saved(file.parent, "fashion_22full"), weights_only=True)
        normalised["state_dict"]["1.2.running_var"][:2] = -1.0
        torch.save(normalised, file)
    elif kind == "shape":
        state["1.fc2.weight"] = torch.ones(10, 501)
        torch.save({"arch": "lenet", "state_dict": state}, file)
    elif kind == "integers":
        state["1.fc2.bias"] = torch.ones(10, dtype=torch.int32)
        torch.save({"arch": "lenet", "state_dict": state}, file)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no file", "no such file"),
        ("truncated", "damaged"),
        ("empty", "damaged"),
        ("text", "not a PyTorch checkpoint"),
        ("pickle", "checkpoint"),
        ("list", "it is a list"),
        ("no known key", "ema: it has 'epoch', 'weights', 'a\\nb'; choose one with --weights"),
        ("an array", "1.fc1.bias is a NumPy array, not a tensor"),
        ("a name of two lines", "'a\\nb' names no tensor"),
        ("no tensors", "it is empty"),
        ("another network", "is missing; the first of the file is features.1.conv1.weight"),
        ("code", "code that it names (getattr); it was not executed; if you trust the file"),
        ("code in a plain pickle", "checkpoint"),
        ("arch", "unknown architecture 'vit_b_16'; known: digits_cnn"),
        ("missing", "the tensor 1.fc1.bias of lenet is missing"),
        ("extra", "the tensor 1.fc3.bias is not part of lenet"),
        ("extra by another kind of name", "the tensor 1. is not part of lenet"),
        ("a layer missing", "the tensor 1.9.bias of mnist_43 is missing"),
        ("a layer more", "the tensor 1.13b.weight is not part of mnist_43"),
        ("sparse", "the tensor 1.fc2.weight is no plain array"),
        ("shape", "the tensor 1.fc2.weight has shape (10, 501), lenet needs (10, 500)"),
        ("integers", "the tensor 1.fc2.bias holds int32"),
        ("nan", "the tensor 1.fc2.bias has 3 of 10 values that are not finite"),
        ("infinite", "the tensor 1.fc2.bias has 3 of 10 values that are not finite"),
        ("too large for float32", "1.conv1.bias has 1 of 20 values that are not finite in float32"),
        ("negative variance", "the tensor 1.2.running_var is a variance and has 2 negative values"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    kind: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "bad.pth.tar"
    _write_bad(kind, file)
    before = set(tmp_path.iterdir())
    assert main(["convert", str(file), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("dsrs-jax convert: ") and message in error
    assert set(tmp_path.iterdir()) == before  # nothing written, nothing executed
