"""Runs in which things go wrong: lost hosts, full disks, damaged images and records."""

import json
import resource
import shutil
from pathlib import Path

import commands
import jax
import numpy as np
import pytest
from certify_runs import (
    FINISHED,
    IMAGES,
    WORK,
    HeldRun,
    Once,
    finished,
    record_files,
    recorded,
    records_of,
    rows_of,
    save_png,
)

from dsrs_jax import data, models
from dsrs_jax.run.main import main

SHORT = ["--n", "500", "--q-inside", "0.5", "--seed", "0"]


@pytest.mark.process
@pytest.mark.slow
def test_a_lost_process_costs_its_share_and_any_number_completes_it(
    model: str, whole: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["certify", "--model", model, *WORK, "--batch", "1", "--out", str(out)]

    # Of two, the second is lost: the first gathers the records, and says what is missing.
    one, other = commands.joined(*[[*command, "--patience", "2"]] * 2)
    first, second = commands.start(one), HeldRun(other, tmp_path / "second", number=1)
    second.kill()
    [(code, error)] = commands.ended([first])
    assert code == 1
    again = f"dsrs-jax certify --model {model}"
    commands.assert_one_line_error(error, "certify", "missing (lost processes: 1)", again)
    assert "--coordinator" not in error
    assert (recorded(out, 0), recorded(out, 1)) == (IMAGES // 2, 1)  # its whole share
    assert not (out / "certificates.csv").exists()

    # Two of two devices agree on what is missing; the one that would gather the records is lost.
    missing = range(IMAGES - recorded(out))
    one, other = commands.joined(command, command)
    first = HeldRun(one, tmp_path / "first", number=1, event="os.rename", devices=2)
    second = commands.start(other, devices=2)
    first.kill()
    assert [code for code, _ in commands.ended([second])] == [0]
    assert recorded(out, 1) - 1 == len(missing[1::2])
    assert not (out / "certificates.csv").exists()

    # One alone completes it.
    assert main(command) == 0
    assert recorded(out) == IMAGES  # none of them twice
    assert (out / "certificates.csv").read_bytes() == whole


@pytest.mark.slow
def test_a_full_disk_stops_a_run_in_one_line_and_it_can_go_on(
    model: str, whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["certify", "--model", model, *WORK, "--out", str(tmp_path)]
    # Files of more than 700 bytes do not fit: config.json does, that of the records does not.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        commands.refused(capsys, command, "cannot write", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "config.json").exists() and not recorded(tmp_path)
    assert not (tmp_path / "certificates.csv").exists()
    assert main(command) == 0
    assert (tmp_path / "certificates.csv").read_bytes() == whole


@pytest.mark.slow
def test_a_damaged_image_is_named_and_all_others_are_certified(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, folder, out = data.load("digits"), tmp_path / "images", tmp_path / "run"
    for index in range(12):
        image, label = digits[index]
        save_png(folder / str(label) / f"{index:03d}.png", image)
    images = data.load("folder", "test", folder)
    broken = sorted(folder.rglob("*.png"))[4]
    good = broken.read_bytes()
    broken.write_bytes(good[: len(good) // 2])
    command = ["certify", "--dataset", "folder", "--data-dir", str(folder), "--model", model]
    command += [*SHORT, "--out", str(out)]
    assert main(command) == 1
    captured = capsys.readouterr()
    commands.assert_one_line_error(
        captured.err, "certify", "1 image (index 4) could not be read", "then: dsrs-jax certify"
    )
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
    for row in (*rows, *mended):
        del row["compared"]  # of all images together
    assert mended[:4] + mended[5:] == rows[:4] + rows[5:]
    new = [file for file in record_files(out) if file not in before]
    assert sum(file.read_text().count("\n") for file in new) == 1
    # What was recorded must still be there, and be the same.
    broken.write_bytes(good[: len(good) // 2])
    commands.refused(capsys, command, "index 4 cannot be read any more")
    shutil.rmtree(folder)
    commands.refused(capsys, command, "no such folder")


def test_damaged_votes_are_named_and_drawn_again(
    once: Once, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished(once, model), out)
    table = (out / "certificates.csv").read_bytes()
    lines = [line for file in record_files(out) for line in file.read_bytes().splitlines()]
    for file in record_files(out):
        file.unlink()
    lines[1] = b"\xff" + lines[1]
    lines[2] = json.dumps({**json.loads(lines[2]), "draws": [500]}).encode()
    lines[-1] = lines[-1][:20]
    file = out / "votes" / "00000000-00000340-18.0.jsonl"
    file.write_bytes(b"\n".join(lines))
    damaged = file.read_bytes()
    (out / "batch.json").write_text('{"cpu x 1": Infinity}')
    (out / "processes" / "0.json").write_bytes(b"\xff")
    capsys.readouterr()
    command = ["certify", "--model", model, *FINISHED, "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    [told] = [line for line in printed.splitlines() if line.startswith("Damaged: ")]
    numbers = [number for number in range(1, 19) if f"{file} line {number} (" in told]
    assert numbers == [2, 3, 18]
    assert "15 of 18 images were done before" in printed
    assert (out / "certificates.csv").read_bytes() == table
    assert file.read_bytes() == damaged
    (out / "config.json").write_text("[]")
    commands.refused(capsys, command, f"{out / 'config.json'} is damaged")


@pytest.mark.slow
@pytest.mark.parametrize("some", [True, False], ids=["some draws", "every draw"])
def test_logits_that_are_not_finite_are_told(
    some: bool, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network of finite weights whose logits overflow."""
    trained = models.load_model(model)
    images = data.in_memory(data.load("digits")).images[:6]
    typical = np.median(np.abs(np.asarray(trained(jax.numpy.asarray(images)))).max(axis=1))
    factors = {"dense2": np.finfo(np.float32).max / typical if some else 1e30}
    arrays = {}
    for name, leaf in zip(
        models.parameters_of(trained.metadata), jax.tree.leaves(trained.state), strict=True
    ):
        arrays[name] = np.array(leaf) * factors.get(name.split(".")[0], 1.0 if some else 1e15)
        assert np.isfinite(arrays[name]).all()
    overflowing = models.with_parameters(trained.metadata, arrays)
    models.save_model(tmp_path / "model", overflowing, trained.metadata)
    out = tmp_path / "run"
    command = ["certify", "--model", str(tmp_path / "model"), *SHORT, "--stop", "6"]
    assert main([*command, "--q-sigma", "0.3", "--out", str(out)]) == 0
    [told] = [line for line in capsys.readouterr().out.splitlines() if "not finite" in line]
    records = records_of(out)
    counts = [records[index].get("not_finite", 0) for index in range(6)]
    # Those inside 0.5 are P's; an image that P gives up is not drawn under the third law.
    drawn = [records[index]["draws"][0] + records[index]["draws"][2] for index in range(6)]
    assert told.startswith(f"{sum(counts):,} of {sum(drawn):,} draws had logits that are not")
    odd = [str(index) for index in range(6) if counts[index]]
    assert f"(index {', '.join(odd)})" in told
    lost = [count == draws for count, draws in zip(counts, drawn, strict=True)]
    assert [row["status"] == "not-finite" for row in rows_of(out)] == lost
    assert any(0 < c < d for c, d in zip(counts, drawn, strict=True)) if some else all(lost)
    assert main(["prove", str(out), "--processes", "1"]) == 0


def test_other_data_under_the_same_name_are_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, out = data.in_memory(data.load("digits")), tmp_path / "run"
    order, labels = np.arange(12), digits.labels[:12]
    file, moved = tmp_path / "images.npz", tmp_path / "moved.npz"
    np.savez(moved, images=digits.images[order], labels=labels)
    shutil.copy(moved, file)
    command = ["certify", "--dataset", "npz", "--model", model, *SHORT]
    command += ["--out", str(out), "--data-dir"]
    assert main([*command, str(file), "--stop", "6"]) == 0
    before = {path: path.read_bytes() for path in (out / "certificates.csv", *record_files(out))}

    # The first image that is another is named, whether or not there are others to draw.
    swapped, wrong = order.copy(), labels.copy()
    swapped[[3, 7]] = 7, 3
    wrong[2] += 1
    for images, classes, rest, message in (
        (swapped, labels, [], "index 3"),
        (order, wrong, ["--stop", "6"], f"index 2 has the label {wrong[2]}, and had {labels[2]}"),
    ):
        np.savez(file, images=digits.images[images], labels=classes)
        commands.refused(capsys, [*command, str(file), *rest], message, "another --out")
        assert {path: path.read_bytes() for path in before} == before

    # The same images elsewhere are the same data.
    assert main([*command, str(moved)]) == 0
    assert len(rows_of(out)) == 12
    assert all(path.read_bytes() == before[path] for path in before if path.suffix == ".jsonl")
