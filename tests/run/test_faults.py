"""Runs in which things go wrong: lost hosts, full disks, damaged images."""

import json
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from certify_runs import IMAGES, WORK, joined, record_files, recorded, rows_of, wait_for_more
from PIL import Image

from dsrs_jax import data, models
from dsrs_jax.run.main import main

Start = Callable[..., subprocess.Popen[str]]


def test_a_lost_process_costs_its_share_and_any_number_completes_it(
    model: str, whole: bytes, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["--model", model, *WORK, "--batch", "1", "--out", str(out)]

    # Of two, the second is lost: the first gathers the records, and says what is missing.
    first, second = [start(one) for one in joined(command, 2)]
    assert wait_for_more([first, second], out, 0, process=1)
    second.kill()
    second.communicate()
    _, error = first.communicate(timeout=600)
    assert first.returncode == 1
    assert error.count("\n") == 1
    assert "missing (lost processes: 1)" in error
    assert f"dsrs-jax certify --model {model}" in error
    assert "--coordinator" not in error
    assert recorded(out, 0) == IMAGES // 2  # its whole share
    assert not (out / "certificates.csv").exists()

    # Three of two devices take up what two began, and agree on what is missing; the one that
    # would gather the records is lost.
    before = [recorded(out, number) for number in range(3)]
    missing = range(IMAGES - sum(before))
    others = [start(one, devices=2) for one in joined(command, 3)]
    assert wait_for_more(others, out, len(record_files(out)))
    others[0].kill()
    others[0].communicate()
    for number in (1, 2):
        _, error = others[number].communicate(timeout=600)
        assert others[number].returncode == 0, error
        assert recorded(out, number) - before[number] == len(missing[number::3])
    assert not (out / "certificates.csv").exists()

    # One alone completes it.
    assert main(["certify", *command]) == 0
    assert recorded(out) == IMAGES  # none of them twice
    assert (out / "certificates.csv").read_bytes() == whole


def test_a_full_disk_stops_a_run_in_one_line_and_it_can_go_on(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["certify", "--model", model, "--n", "1000", "--skip", "2", "--q-inside", "0.5"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    # Files of more than 700 bytes do not fit: config.json does, soon some file of records not.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        assert main([*command, "--out", str(tmp_path / "run")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot write" in error and "File too large" in error
    assert (tmp_path / "run" / "config.json").exists()
    assert not (tmp_path / "run" / "certificates.csv").exists()
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    written = [(tmp_path / name / "certificates.csv").read_bytes() for name in ("run", "whole")]
    assert written[0] == written[1]


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
    command = ["certify", "--dataset", "folder", "--data-dir", str(folder), "--model", model]
    command += ["--n", "1000", "--q-inside", "0.5", "--out", str(out)]
    assert main(command) == 1
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
    assert main(command) == 0
    mended = rows_of(out)
    assert [int(row["label"]) for row in mended] == [images[i][1] for i in range(12)]
    assert [row for i, row in enumerate(mended) if i != 4] == [
        row for i, row in enumerate(rows) if i != 4
    ]
    new = [file for file in record_files(out) if file not in before]
    assert sum(file.read_text().count("\n") for file in new) == 1
    shutil.rmtree(folder)
    assert main(command) == 2
    assert "no such folder" in capsys.readouterr().err


def test_damaged_votes_are_named_and_drawn_again(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["certify", "--model", model, "--n", "500", "--stop", "8", "--q-inside", "0.5"]
    command += ["--out", str(out)]
    assert main(command) == 0
    table = (out / "certificates.csv").read_bytes()
    lines = [line for file in record_files(out) for line in file.read_bytes().splitlines()]
    for file in record_files(out):
        file.unlink()
    records = [json.loads(line) for line in lines]
    lines[1] = b"\xff" + lines[1]
    lines[2] = b'{"index":%d}' % records[2]["index"]
    lines[3] = b"null"
    lines[5] = json.dumps({**records[5], "draws": [500]}).encode()
    lines[7] = lines[7][:20]
    file = out / "votes" / "00000000-00000007-8.0.jsonl"
    file.write_bytes(b"\n".join(lines))
    damaged = file.read_bytes()
    (out / "batch.json").write_text('{"cpu x 1": Infinity}')
    (out / "processes" / "0.json").write_bytes(b"\xff")
    capsys.readouterr()
    assert main(command) == 0
    captured = capsys.readouterr()
    [told] = [line for line in captured.out.splitlines() if line.startswith("Damaged: ")]
    named = [number for number in range(1, 9) if f"{file} line {number} (" in told]
    assert named == [2, 3, 4, 6, 8]
    assert "3 of 8 images were done before" in captured.out
    assert (out / "certificates.csv").read_bytes() == table
    assert file.read_bytes() == damaged
    assert recorded(out) == len(lines) - 1 + 5  # the last line has no end
    for name, content in (("config.json", "null"), ("config.json", "[]")):
        (out / name).write_text(content)
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{out / name} is damaged" in error


@pytest.mark.parametrize("some", [True, False], ids=["some draws", "every draw"])
def test_logits_that_are_not_finite_are_told(
    some: bool, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network of finite weights whose logits overflow."""
    trained = models.load_model(model)
    arrays = {
        name: np.array(leaf)
        for name, leaf in zip(
            models.parameters_of(trained.metadata), jax.tree.leaves(trained.state), strict=True
        )
    }
    images = data.in_memory(data.load("digits")).images[:6]
    typical = np.median(np.abs(np.asarray(trained(jax.numpy.asarray(images)))).max(axis=1))
    for name in arrays:
        if name.startswith("dense2"):
            arrays[name] *= np.finfo(np.float32).max / typical if some else 1e30
        elif not some:
            arrays[name] *= 1e15
        assert np.isfinite(arrays[name]).all()
    overflowing = models.with_parameters(trained.metadata, arrays)
    models.save_model(tmp_path / "model", overflowing, trained.metadata)
    out = tmp_path / "run"
    command = ["certify", "--model", str(tmp_path / "model"), "--n", "500", "--stop", "6"]
    command += ["--q-inside", "0.5", "--q-sigma", "0.3", "--out", str(out)]
    for _ in range(2):  # of a run that is done it is said again
        assert main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        [told] = [line for line in lines if "not finite" in line]
        records = [
            json.loads(line) for file in record_files(out) for line in file.read_text().splitlines()
        ]
        counts = {record["index"]: record.get("not_finite", 0) for record in records}
        # Those inside 0.5 are P's; an image that P gives up is not drawn under the third law.
        drawn = {record["index"]: record["draws"][0] + record["draws"][2] for record in records}
        total = f"{sum(counts.values()):,} of {sum(drawn.values()):,} draws had logits that are not"
        assert told.startswith(total)
        odd = [index for index in sorted(counts) if counts[index]]
        assert f"(index {', '.join(map(str, odd))})" in told
    assert [row["status"] == "not-finite" for row in rows_of(out)] == [
        counts[index] == drawn[index] for index in range(6)
    ]
    if some:
        assert any(0 < counts[index] < drawn[index] for index in range(6))
    else:
        assert counts == drawn
    assert main(["prove", str(out), "--processes", "1"]) == 0


def _npz(file: Path, order: np.ndarray, labels: np.ndarray) -> None:
    digits = data.in_memory(data.load("digits"))
    file.parent.mkdir(exist_ok=True)
    np.savez(file, images=digits.images[order], labels=labels)


def test_other_data_under_the_same_name_are_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order, out = np.arange(12), tmp_path / "run"
    labels = data.in_memory(data.load("digits")).labels[order]
    file, moved = tmp_path / "images.npz", tmp_path / "moved" / "other.npz"
    _npz(file, order, labels)
    command = ["certify", "--dataset", "npz", "--model", model, "--n", "500", "--q-inside", "0.5"]
    command += ["--out", str(out), "--data-dir"]
    assert main([*command, str(file), "--stop", "6"]) == 0
    table = (out / "certificates.csv").read_bytes()
    records = {path: path.read_bytes() for path in record_files(out)}
    capsys.readouterr()

    # Of a finished run, and of one that has images to draw: the first that is another is named.
    swapped = order.copy()
    swapped[[3, 7]] = 7, 3
    wrong = labels.copy()
    wrong[2] += 1
    for images, classes, message in (
        (swapped, labels, "index 3"),
        (order, wrong, f"index 2 has the label {wrong[2]}, and had {labels[2]}"),
        (order[::-1], labels[::-1], "index 0"),
    ):
        _npz(file, images, classes)
        for rest in (["--stop", "6"], []):
            assert main([*command, str(file), *rest]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1 and message in error and "another --out" in error
            assert (out / "certificates.csv").read_bytes() == table
            assert {path: path.read_bytes() for path in record_files(out)} == records

    # The same images elsewhere are the same data.
    _npz(moved, order, labels)
    assert main([*command, str(moved), "--stop", "6"]) == 0
    assert (out / "certificates.csv").read_bytes() == table
    assert main([*command, str(moved)]) == 0
    assert len(rows_of(out)) == 12


def test_an_image_that_is_damaged_after_it_was_recorded_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, folder, out = data.load("digits"), tmp_path / "images", tmp_path / "run"
    for index in range(3):
        image, _ = digits[index]
        file = folder / "0" / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(file)
    command = ["certify", "--dataset", "folder", "--data-dir", str(folder), "--model", model]
    command += ["--n", "500", "--q-inside", "0.5", "--out", str(out)]
    assert main(command) == 0
    capsys.readouterr()
    file.write_bytes(file.read_bytes()[:30])
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "index 2 cannot be read any more" in error
