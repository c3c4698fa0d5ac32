"""Every recipe of docs/models.md, as it stands there, with files made for it."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from certify_runs import rows_of
from flax import nnx
from networks import randomised
from torchvision_without_kernels import make_importable

from dsrs_jax.convert.pytorch_models import pytorch_model
from dsrs_jax.convert.user_code import import_from
from dsrs_jax.run.main import main

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"
# A few draws of a few images: what a recipe says is about the model.
SHORT = ["--n", "20", "--alpha", "0.3", "--stop", "2", "--out", "run", "--draws", "sound"]


def recipes() -> dict[str, tuple[str, str]]:
    """Program ("" where there is none) and command of each recipe, by its title."""
    _, _, text = DOCUMENT.read_text().partition("## Ten recipes\n")
    found = {}
    for section in re.split(r"^### ", text, flags=re.M)[1:]:
        title = section.splitlines()[0]
        programs = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
        command = re.search(r"^    dsrs-jax ((?:.*\\\n)*.*)", section, re.M)
        assert command is not None and len(programs) <= 1, title
        found[title] = (programs[0] if programs else "", command[1])
    return found


RECIPES = recipes()


def write(file: str, content: Any) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)


def timms(file: str, name: str) -> None:
    import timm

    write(file, randomised(timm.create_model(name, num_classes=10)).state_dict())


def for_torchvision() -> None:
    from torchvision.models import get_model

    network = get_model("mobilenet_v3_small", num_classes=10)
    write("mine.pth", randomised(network).state_dict())


def for_hugging_face() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=10,
    )  # fmt: skip
    randomised(ViTForImageClassification(config)).save_pretrained("mine")


def for_robustbench() -> None:
    state = pytorch_model("cifar_wrn_28_10").state_dict()
    write("Carmon2019Unlabeled.pt", {"state_dict": {f"module.{k}": v for k, v in state.items()}})


def of_resnet110(prefix: str) -> dict[str, Any]:
    state = randomised(pytorch_model("cifar_resnet110")).state_dict()
    return {prefix + key: tensor for key, tensor in state.items()}


def for_cohen() -> None:
    content = {"arch": "cifar_resnet110", "epoch": 90, "state_dict": of_resnet110("1.module.")}
    write("resnet110/noise_0.25/checkpoint.pth.tar", content)


def for_denoised_smoothing() -> None:
    timms("classifier.pth", "resnet18")
    write("denoiser.pth", randomised(import_from("net.py:DnCNN").thing).state_dict())


def for_diffusion() -> None:
    from diffusers import DDPMScheduler, UNet2DModel

    timms("classifier.pth", "vit_tiny_patch16_224")
    denoiser = UNet2DModel(
        sample_size=32, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    randomised(denoiser).save_pretrained("ddpm/unet")
    DDPMScheduler().save_pretrained("ddpm/scheduler")


def for_flax() -> None:
    source = {}
    exec(RECIPES["Flax"][0], source)  # its module alone: its weights are not yet there
    network = source["Net"](nnx.Rngs(1))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path("checkpoint").absolute(), nnx.state(network))


def for_jax() -> None:
    random = np.random.default_rng(0)
    shapes = {"first": (3072, 16), "bias": (16,), "second": (16, 10)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez("weights.npz", **arrays)


FILES: dict[str, Callable[[], None]] = {
    "timm": lambda: timms("mine.pth", "resnet18"),
    "torchvision": for_torchvision,
    "Hugging Face": for_hugging_face,
    "RobustBench": for_robustbench,
    "Cohen et al.": for_cohen,
    "MACER": lambda: write("macer.pth", {"net": of_resnet110(""), "epoch": 440}),
    "Denoised smoothing": for_denoised_smoothing,
    "Diffusion": for_diffusion,
    "Flax": for_flax,
    "Plain JAX": for_jax,
}


def test_there_are_ten() -> None:
    assert list(RECIPES) == list(FILES) and len(RECIPES) == 10


@pytest.mark.parametrize("title", FILES)
def test_a_recipe_runs(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_importable()
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = random.integers(0, 256, (4, 1 + 3072), dtype=np.uint8)
    rows[:, 0] %= 10
    Path("cifar").mkdir()
    Path("cifar/test_batch.bin").write_bytes(rows.tobytes())
    program, command = RECIPES[title]
    if program:
        Path("net.py").write_text(program)
    FILES[title]()
    words = [
        "cifar" if word == "DIR" else word for word in shlex.split(command.replace("\\\n", " "))
    ]
    assert main([*words, *SHORT]) == 0
    assert len(rows_of(Path("run"))) == 2
