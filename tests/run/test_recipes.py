"""Every recipe of docs/models.md, word by word, with files made for it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from certify_runs import rows_of
from commands import ROOT, documented
from flax import nnx
from networks import randomised
from torchvision_without_kernels import make_importable

from dsrs_jax.convert.pytorch_models import pytorch_model
from dsrs_jax.convert.user_code import import_from
from dsrs_jax.run.main import main

pytestmark = pytest.mark.others

# A few draws of a few images: what a recipe says is about the model.
SHORT = ["--n", "20", "--alpha", "0.3", "--stop", "2", "--q-inside", "0.5", "--seed", "0",
         "--out", "run"]  # fmt: skip


def recipes() -> dict[str, tuple[str, list[str]]]:
    """Program ("" where there is none) and command of each recipe, by its title."""
    _, _, text = (ROOT / "docs" / "models.md").read_text().partition("## Ten recipes\n")
    sections = re.split(r"^### ", text, flags=re.M)[1:]
    assert len(sections) == 10
    programs = ["".join(re.findall(r"^```python\n(.*?)^```$", s, re.M | re.S)) for s in sections]
    made = zip(programs, documented("docs/models.md")[-10:], strict=True)
    return dict(zip([section.splitlines()[0] for section in sections], made, strict=True))


RECIPES = recipes()


def write(file: str, content: Any) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)


def timms(file: str, name: str) -> None:
    import timm

    write(file, randomised(timm.create_model(name, num_classes=10)).state_dict())


def of_cifar10(arch: str, prefix: str = "") -> dict[str, Any]:
    state = randomised(pytorch_model(arch)).state_dict()
    return {prefix + key: tensor for key, tensor in state.items()}


def make_files(title: str) -> None:
    """What a recipe calls yours, in the working directory."""
    if title == "timm":
        timms("mine.pth", "resnet18")
    elif title == "torchvision":
        from torchvision.models import get_model

        network = get_model("mobilenet_v3_small", num_classes=10)
        write("mine.pth", randomised(network).state_dict())
    elif title == "Hugging Face":
        from transformers import ViTConfig, ViTForImageClassification

        config = ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            image_size=32, patch_size=8, num_labels=10,
        )  # fmt: skip
        randomised(ViTForImageClassification(config)).save_pretrained("mine")
    elif title == "RobustBench":
        state = of_cifar10("cifar_wrn_28_10", "module.")
        write("Carmon2019Unlabeled.pt", {"state_dict": state})
    elif title == "Cohen et al.":
        state = of_cifar10("cifar_resnet110", "1.module.")
        content = {"arch": "cifar_resnet110", "epoch": 90, "state_dict": state}
        write("resnet110/noise_0.25/checkpoint.pth.tar", content)
    elif title == "MACER":
        write("macer.pth", {"net": of_cifar10("cifar_resnet110"), "epoch": 440})
    elif title == "Denoised smoothing":
        timms("classifier.pth", "resnet18")
        write("denoiser.pth", randomised(import_from("net.py:DnCNN").thing).state_dict())
    elif title == "Diffusion":
        from diffusers import DDPMScheduler, UNet2DModel

        timms("classifier.pth", "vit_tiny_patch16_224")
        denoiser = UNet2DModel(
            sample_size=32, block_out_channels=(32, 64), layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        randomised(denoiser).save_pretrained("ddpm/unet")
        DDPMScheduler().save_pretrained("ddpm/scheduler")
    elif title == "Flax":
        source: dict[str, Any] = {}
        exec(RECIPES["Flax"][0], source)  # its module alone: its weights are not yet there
        with ocp.StandardCheckpointer() as checkpointer:
            state = nnx.state(source["Net"](nnx.Rngs(1)))
            checkpointer.save(Path("checkpoint").absolute(), state)
    else:
        assert title == "Plain JAX"
        random, shapes = np.random.default_rng(0), {"first": (3072, 16), "second": (16, 10)}
        arrays = {name: random.normal(size=shape) for name, shape in shapes.items()}
        arrays["bias"] = random.normal(size=16)
        np.savez("weights.npz", **{name: one.astype("f4") for name, one in arrays.items()})


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_runs(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_importable()
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).integers(0, 256, (4, 1 + 3072), dtype=np.uint8)
    rows[:, 0] %= 10
    Path("DIR").mkdir()
    Path("DIR/test_batch.bin").write_bytes(rows.tobytes())
    program, command = RECIPES[title]
    if program:
        Path("net.py").write_text(program)
    make_files(title)
    assert main([*command, *SHORT]) == 0
    assert len(rows_of(Path("run"))) == 2
