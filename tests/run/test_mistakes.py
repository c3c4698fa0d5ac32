"""A user's mistakes: one line says what is wrong, exit code 2, and nothing is written."""

import shlex
import sys
from pathlib import Path

import commands
import pytest

# The words after `dsrs-jax`, MODEL being the tests' digits model, and what the line holds.
PUBLISHED = "--model-name net.pth --dataset mnist --k 380 --sigma 0.5"
ROWS = [
    ("certify --k 32 --model MODEL", "2k < 64"),
    ("certify --n 3 --q-inside 0.5 --model MODEL", "can certify nothing"),
    ("certify --q-sigma 0.4 --model MODEL", "is P itself"),
    ("certify --q-inside 1.5 --model MODEL", "quantile"),
    ("certify --q-threshold x3 --model MODEL", "x2"),
    ("certify --radii 0.5 --q-threshold x+ --model MODEL", "--q-threshold x+ waits for all votes"),
    ("certify --q-inside 0.5 --q-inside 0.5", "twice"),
    ("certify --n 0", "--n must be positive"),
    ("certify --alpha 0", "--alpha must lie in"),
    ("certify --alpha 1", "--alpha must lie in"),
    ("certify --model no/such/model", "no such file or folder: no/such/model"),
    ("certify --model no.pth.tar --input-scaling none", "no such file or folder: no.pth.tar"),
    ("certify --model no.pt2 --backend torch", "no such file or folder: no.pt2"),
    ("certify --model no.safetensors --output 1", "no such file or folder: no.safetensors"),
    ("certify --model no --input-scaling timm", "no such file or folder: no"),
    ("certify --model no.pth --arch timm:resnet18", "no such file or folder: no.pth"),
    ("certify --model runs/a:b --weights ema", "no such file or folder: runs/a:b; code is FILE.py"),
    ("certify --model timm:resnet18", "give their file: --model FILE --arch timm:resnet18"),
    ("predict a_file --model no.pth --input-scaling none", "no such file or folder: no.pth"),
    ("certify --model net.py:network --arch lenet", "for a PyTorch file"),
    ("certify --model absent.py:f", "no such file"),
    ("certify --model no_such_package.at_all:f", "no_such_package"),
    ("certify --model m --input-scaling often", "unknown input scaling"),
    ("certify --dataset mnist", "mnist needs --data-dir"),
    ("certify --dataset mnist --data-dir no/such/folder", "no/such/folder"),
    ("certify --dataset npz --data-dir a_file --model m", "is not a .npz file with `images`"),
    ("certify --start 400", "chooses nothing"),
    ("certify --skip 0", "--skip"),
    ("certify --batch 0", "--batch must be positive, got 0"),
    ("certify --seed -1", "--seed must lie in [0, 2^32), got -1"),
    ("certify --patience 0", "--patience"),
    ("certify --coordinator here:1", "--num-processes"),
    ("certify --distributed --process-id 0", "leave out"),
    ("certify --noise gaussian --k 3", "k = 0"),
    ("certify --radii 0.5 0.5", "--radii must be positive and increase, got 0.5 0.5"),
    ("certify --radii 0", "--radii must be positive"),
    ("certify --budget 9 --tolerance 0.1", "two goals"),
    ("certify --tolerance 1", "--tolerance must lie in [0, 1)"),
    ("certify --radii 0.5 --continue 3 --model MODEL", "--continue must be a power of two"),
    ("certify --continue 2", "all of alpha is spent at N draws"),
    ("certify --budget 0", "--budget must be positive"),
    ("certify --n0 50", "--n0 goes with --label predicted"),
    ("certify --label predicted --n0 0", "--n0 must be positive"),
    ("certify --q auto --q-sigma 0.3", "leave out the other --q options"),
    ("certify --q auto --pilot 0", "--pilot must be positive"),
    ("certify --out http://host/run", "--out http://host/run cannot be written"),
    ("certify --out gs://b/run", "gs://b/run needs a package that is not installed: pip install"),
    ("certify --model gs://b/run", "--model gs://b/run is an address"),
    ("certify --dataset mnist --data-dir gs://b/c", "--data-dir gs://b/c is an address"),
    ("attack --eps 0", "--eps must be positive numbers"),
    ("attack --steps 0", "steps must be a whole number of at least 1, got 0"),
    ("attack --step-size -1", "step_size must be positive and finite, got -1"),
    ("attack --method pgd --random-starts 0", "--random-starts must be at least 1, got 0"),
    ("attack --backend torch", "--backend torch has no gradients in JAX; use --backend jax"),
    ("attack --batch 0", "--batch must be positive, got 0"),
    ("audit nowhere.tsv --sigma 0.5", "cannot read nowhere.tsv"),
    ("audit a_file --sigma 0.5", "is no log"),
    ("audit a_file nowhere --sigma 0.5", "cannot read nowhere"),
    ("audit a_file --sigma -1", "--sigma must be positive"),
    ("audit a_file --sigma 0.5 --n 0", "--n must lie in"),
    ("audit a_file --sigma 0.5 --alpha 1", "--alpha must lie in"),
    ("audit a_file --sigma 0.5 --as-run x", "needs --dataset"),
    ("predict a_file", "predict needs --model M"),
    ("predict no.png --model m", "no such file: no.png"),
    ("predict taken --model m", "no images in taken"),
    ("predict a_file --dataset mnist --model m", "two sources"),
    ("predict a_file --n 5 --model m", "give at least 11"),
    ("predict a_file --alpha 1 --model m", "--alpha must lie in"),
    (f"published nowhere {PUBLISHED}", "no folder nowhere"),
    (f"published taken {PUBLISHED} --seed 3", "unrecognized arguments: --seed 3"),
    (f"published taken {PUBLISHED} --dataset npz", "invalid choice: 'npz'"),
    (f"published taken {PUBLISHED} --out gs://b/c", "--out gs://b/c is an address"),
    (f"published gs://b/c {PUBLISHED}", "DIR gs://b/c is an address"),
    ("published taken --dataset mnist", "required: --model-name"),
    ("train --out run --dataset cifar10", "--dataset cifar10 needs --arch"),
    ("train --out run --arch mnist_43", "mnist_43 takes images (28, 28, 1)"),
    ("train --out run --k 32", "2k < 64"),
    ("train --out run --epochs 0", "epochs must be positive"),
    ("train --out run --lr nan", "learning rate must be positive"),
    ("train --out run --accumulate 0", "--accumulate must be positive, got 0"),
    ("train --out run --warmup -1", "--warmup must be 0 or more, got -1"),
    ("train --out run --ema 1.5", "--ema must lie in [0, 1), got 1.5"),
    ("train --out run --inside -1", "--inside must lie in [0, 1), got -1"),
    ("train --out run --seed 4294967296", "the seed must lie in [0, 2^32), got 4294967296"),
    ("train --out run --batch 100 --num-noise-vec 200", "cannot be cut into 200 parts"),
    ("train --out run --batch 16 --accumulate 3", "16 images cannot be cut into 3 equal"),
    ("train --out run --workers -1", "--workers must not be negative, got -1"),
    ("train --out run --save-every nan", "--save-every must be positive, got nan"),
    ("train --out run --pretrained no/such/model", "no such file or folder: no/such/model"),
    ("train --out gs://b/c", "--out gs://b/c is an address"),
    ("train --epochs 1 --out taken", "exists and holds no run"),
    ("train --epochs 1 --out a_file/run", "cannot make the folder"),
    ("convert none.safetensors out --arch lenet", "no such file: none.safetensors"),
    ("convert none.safetensors out --arch lenet --weights ema", "leave out --weights"),
    ("convert a_file gs://b/c", "OUT gs://b/c is an address"),
    ("convert https://host/file out", "CHECKPOINT https://host/file is an address"),
    ("report", "nothing to report on"),
    ("report taken taken --write-log run.tsv", "--write-log is for one run"),
    ("report taken --radii -1", "--radii must not be negative"),
    ("report nowhere", "no nowhere; give the folder of a run"),
    ("report taken", "no run, so there is nothing to show"),
    ("report a_file", "no file of certificates"),
    ("report --published nowhere", "no folder nowhere"),
    ("report --published taken", "give a folder in the layout of the paper's authors"),
    ("study", "which study? known: dimension, bounds-plane, "),
    ("study dimensions", "no study 'dimensions'; known: dimension, "),
    ("study toy --images 0", "--images must be positive, got 0"),
    ("study toy --alpha 1", "--alpha must lie in (0, 1), got 1"),
    ("study draws --published .", "no published radii in .; give the folder with new-radius"),
    ("study toy --out a_file", "cannot make the folder a_file: File exists"),
    ("prove no/such/run", "cannot read no/such/run"),
    ("prove .", ". holds no certificates.csv; give the folder of a run that is done"),
    ("prove . --processes 0", "--processes must be positive, got 0"),
]


SLOW = ("certify --budget 10000 --q-inside 0.5 --model MODEL", "one look at each of 360 images")


@pytest.mark.parametrize(
    ("words", "message"),
    [*(pytest.param(*row, id=row[0]) for row in ROWS), pytest.param(*SLOW, marks=pytest.mark.slow)],
)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(
    words: str,
    message: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in ("gcsfs", "s3fs", "tensorflow"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    files = {Path("a_file"): "no data\n", Path("taken/file"): "kept\n"}
    for file, text in files.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    if "MODEL" in words:
        words = words.replace("MODEL", request.getfixturevalue("model"))
    commands.refused(capsys, shlex.split(words), message)
    assert {file: file.read_text() for file in Path().rglob("*") if file.is_file()} == files
