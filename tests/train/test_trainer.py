"""Whole training runs: what they reach, and that a killed one ends as if it had not been."""

import csv
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from script_loader import load_script

from dsrs_jax import data, models, sampling
from dsrs_jax.certify import certify, lower_bound
from dsrs_jax.errors import UserError
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.train import METHODS, EpochInfo, Recipe, train

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train.py"
DIGITS = Recipe(
    "digits_cnn", sigma=0.5, k=28.0, k_warmup=10, copies=2, epochs=40, batch=128,
    learning_rate=0.05, learning_rate_step=20, weight=5.0, steps=4,
)  # fmt: skip
MORE = {
    "gaussian": {},
    "consistency": {},
    "smoothadv": {"epsilon": 64.0},
    "smoothmix": {"weight": 1.0, "step_size": 0.5},
}
# Share of right answers on noisy test images, mean of the last five epochs.
REACHED = {"gaussian": 0.785, "consistency": 0.76, "smoothadv": 0.78, "smoothmix": 0.775}


script = load_script("train.py")


@pytest.fixture(scope="module")
def digits() -> data.ArrayDataset:
    return data.load("digits", "train")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_certifies(method: str, digits: data.ArrayDataset) -> None:
    recipe = dataclasses.replace(DIGITS, method=method, **MORE[method])
    test = data.load("digits", "test")
    seen: list[EpochInfo] = []
    model = train(digits, recipe, test=test, on_epoch=seen.append)
    assert [info.epoch for info in seen] == list(range(recipe.epochs))
    assert seen[0].k == 0.0 and seen[-1].k == recipe.k
    reached = float(np.mean([info.test_accuracy for info in seen[-5:]]))
    assert abs(reached - REACHED[method]) < 0.02
    law = generalized_gaussian(64, recipe.sigma, recipe.k)
    metadata = models.ModelMetadata("digits_cnn", "digits", (8, 8, 1), 10)
    classifier = models.Classifier.from_model(model, metadata)
    some = np.arange(0, 360, 20)
    votes = sampling.count_votes(
        classifier, test.images[some], test.labels[some], law, 1000, indices=some, seed=0
    )
    radius = certify(law, lower_bound(votes.right[:, -1], 1000, 0.001)).radius
    assert np.mean(radius >= 0.25) > 0.4


def test_one_compilation_serves_the_whole_schedule(
    digits: data.ArrayDataset, caplog: pytest.LogCaptureFixture
) -> None:
    """1,437 images leave a ragged rest; compilations are read from JAX's own log."""
    recipe = dataclasses.replace(DIGITS, epochs=4, k_warmup=3)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        train(digits, recipe, test=data.load("digits", "test"))
    for name in ("step", "accuracy"):
        compiled = [r for r in caplog.messages if r.startswith(f"Compiling jit({name})")]
        assert len(compiled) == 1


def test_the_seed_decides_everything(digits: data.ArrayDataset) -> None:
    first, again, other = (
        jax.tree.leaves(nnx.state(train(digits, dataclasses.replace(DIGITS, epochs=1, seed=seed))))
        for seed in (3, 3, 4)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_batch_norm_learns_and_attacks_leave_its_averages_alone() -> None:
    rng = np.random.default_rng(0)
    few = data.ArrayDataset(
        "cifar10",
        "train",
        rng.random((8, 32, 32, 3), np.float32),
        rng.integers(0, 10, 8).astype(np.int32),
        10,
    )
    recipe = Recipe("cifar_resnet20", sigma=0.25, epochs=1, batch=8, steps=2)
    plain = train(few, recipe)
    averages = nnx.state(models.build("cifar_resnet20", 0), nnx.BatchStat)
    moved = nnx.state(plain, nnx.BatchStat)
    assert all(
        bool(jnp.any(a != b))
        for a, b in zip(jax.tree.leaves(averages), jax.tree.leaves(moved), strict=True)
    )
    # An attack of radius 0 moves nothing; were its passes in training mode, averages would move.
    still = train(few, dataclasses.replace(recipe, method="smoothadv", epsilon=0.0))
    for a, b in zip(
        jax.tree.leaves(moved), jax.tree.leaves(nnx.state(still, nnx.BatchStat)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


COMMAND = [
    "--method", "smoothmix", "--sigma", "0.5", "--k", "28", "--k-warmup", "3", "--batch", "128",
    "--num-noise-vec", "2", "--num-steps", "2", "--epochs", "4", "--lr", "0.05",
]  # fmt: skip


def _rows(out: Path) -> list[dict[str, str]]:
    with open(out / "metrics.csv") as stream:
        rows = list(csv.DictReader(stream))
    return [{n: v for n, v in row.items() if n != "images_per_second"} for row in rows]


def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole, killed = Path("whole"), Path("killed")
    assert script.main([*COMMAND, "--out", str(whole)]) == 0
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *COMMAND, "--out", str(killed)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (killed / "state-2").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (killed / "state-4").exists()  # it was killed in the middle
    assert script.main([*COMMAND, "--out", str(killed)]) == 2
    assert "--resume" in capsys.readouterr().err
    changed = [*COMMAND, "--sigma", "0.6", "--resume", "--out", str(killed)]
    assert script.main(changed) == 2
    assert "begun with sigma = 0.5, not 0.6" in capsys.readouterr().err
    assert script.main([*COMMAND, "--resume", "--out", str(killed)]) == 0
    prints = [models.fingerprint(models.load_model(out / "model")) for out in (whole, killed)]
    assert prints[0] == prints[1]
    assert _rows(whole) == _rows(killed) and len(_rows(whole)) == 4
    assert list(whole.glob("events.out*")) and [p.name for p in whole.glob("state-*")] == [
        "state-4"
    ]
    # More epochs may be asked for later; what is done is done.
    more = [*COMMAND, "--epochs", "5", "--resume", "--out", str(killed)]
    assert script.main(more) == 0
    assert _rows(killed)[:4] == _rows(whole) and len(_rows(killed)) == 5


DEVICES = """
import json, sys
from dsrs_jax import data
from dsrs_jax.train import Recipe, train
seen = []
recipe = Recipe("digits_cnn", method="smoothadv", k=28.0, copies=2, epochs=2, batch=128, steps=2)
train(data.load("digits", "train"), recipe, test=data.load("digits", "test"), on_epoch=seen.append)
print(json.dumps([[info.loss, info.test_accuracy] for info in seen]))
"""


def test_eight_devices_train_the_same_model_in_an_eighth_each(tmp_path: Path) -> None:
    found = []
    for count in (1, 8):
        flags = f"--xla_force_host_platform_device_count={count} --xla_dump_hlo_as_text "
        flags += f"--xla_dump_to={tmp_path / str(count)} --xla_dump_hlo_module_re=jit_step"
        done = subprocess.run(
            [sys.executable, "-c", DEVICES],
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags
            },
            capture_output=True,
            text=True,
            check=True,
        )  # fmt: skip
        found.append(json.loads(done.stdout))
    # Sums are formed in another order; nothing else may differ.
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=3e-3)
    # The first layer's output: 64 images of a mini-batch, two copies of each.
    for count in (1, 8):
        (compiled,) = (tmp_path / str(count)).glob("*jit_step*after_optimizations.txt")
        found_sizes = re.findall(r"f32\[(\d+),4,4,32\]", compiled.read_text())
        assert max(int(size) for size in found_sizes) == 128 // count


def _two_processes(*more: list[str]) -> list[tuple[int, str]]:
    """(exit code, what it said to stderr) of each; `more` are arguments of each alone."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    joined = ["--coordinator", f"localhost:{port}", "--num-processes", "2"]
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *COMMAND, *joined, "--process-id", str(number), *own],
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, own in enumerate(more)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def test_two_processes_train_as_one_with_two_devices(tmp_path: Path) -> None:
    """Each on a device of its own, with no disk in common; then both go on after a break."""
    alone, first, second = (tmp_path / name for name in ("alone", "first", "second"))
    for epochs in ("2", "3"):
        more = ["--epochs", epochs, "--resume", "--out"]
        assert _two_processes([*more, str(first)], [*more, str(second)]) == [(0, ""), (0, "")]
    assert not second.exists()  # the first alone writes
    flags = "--xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, str(SCRIPT), *COMMAND, "--epochs", "3", "--out", str(alone)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    for ours, theirs in zip(_rows(first), _rows(alone), strict=True):
        for name, value in theirs.items():
            assert float(ours[name]) == pytest.approx(float(value), rel=1e-4, abs=3e-3)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["--out", "a_file/run"], ["--out", "run"], "cannot make the folder"),
        (["--out", "run"], ["--out", "run", "--sigma", "0.6"], "other settings or other data"),
        (["--out", "run"], ["--out", "run", "--pretrained", "none"], "no such checkpoint"),
    ],
)
def test_a_mistake_in_one_process_ends_them_all(
    first: list[str],
    second: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("")
    ended = _two_processes(first, second)
    assert [code for code, _ in ended] == [2, 2]
    assert all(text.count("\n") == 1 for _, text in ended)
    assert sum(message in text for _, text in ended) == 1
    assert sum("another process of this run failed" in text for _, text in ended) == 1
    assert not (tmp_path / "run" / "state-1").exists()


def test_training_starts_from_a_checkpoint(
    digits: data.ArrayDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = dataclasses.replace(DIGITS, epochs=3)
    train(digits, recipe, out=tmp_path / "first")
    seen: list[EpochInfo] = []
    again = dataclasses.replace(DIGITS, epochs=1, k_warmup=0)
    train(digits, again, pretrained=tmp_path / "first" / "model", on_epoch=seen.append)
    fresh: list[EpochInfo] = []
    train(digits, again, on_epoch=fresh.append)
    assert seen[0].loss < 0.8 * fresh[0].loss
    other = models.ModelMetadata("lenet", "mnist", (28, 28, 1), 10)
    models.save_model(tmp_path / "lenet", models.build("lenet", 0), other)
    with pytest.raises(UserError, match="holds a lenet, not a digits_cnn"):
        train(digits, again, pretrained=tmp_path / "lenet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "vit"], "invalid choice"),
        (["--arch", "mnist_43"], "mnist_43 takes images (28, 28, 1)"),
        (["--method", "trades"], "invalid choice"),
        (["--dataset", "svhn"], "invalid choice"),
        (["--dataset", "mnist"], "--data-dir"),
        (["--k", "32"], "2k < 64"),
        (["--sigma", "0"], "sigma must be positive"),
        (["--epochs", "0"], "epochs must be positive"),
        (["--batch", "-1"], "batch must be positive"),
        (["--lr", "nan"], "learning rate must be positive"),
        (["--num-noise-vec", "200", "--batch", "100"], "cannot be cut into 200 parts"),
        (["--pretrained", "no/such/model"], "no such checkpoint"),
        (["--out", "taken"], "exists and holds no run"),
        (["--out", "a_file/run"], "cannot make the folder"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_the_first_epoch(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("all of it\n")
    (tmp_path / "a_file").write_text("")
    try:
        code = script.main(["--epochs", "1", "--out", "run", *arguments])
    except SystemExit as stop:  # argparse's own way to end
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and message in error
    assert error.count("\n") == 1 and error.startswith("train.py: ")
    assert not list(tmp_path.glob("*/state-*"))
    assert (tmp_path / "taken" / "thesis.tex").read_text() == "all of it\n"
