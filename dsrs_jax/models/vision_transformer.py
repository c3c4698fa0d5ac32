"""The vision transformer ViT-B/16 for ImageNet.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021. Attributes are named as timm names
those of `vit_base_patch16_224`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from dsrs_jax.models.layers import check_images, convolution, dense, layer_norm, logits
from dsrs_jax.models.scaling import InputScaling

IMAGE_SHAPE, CLASSES = (224, 224, 3), 1000
_PATCH, _FEATURES, _BLOCKS, _HEADS = 16, 768, 12, 12


class _Attention(nnx.Module):
    """Every token's mean of all tokens' values, weighted by the softmax of scaled products."""

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any) -> None:
        self.qkv = dense(_FEATURES, 3 * _FEATURES, rngs=rngs, dtype=dtype)
        self.proj = dense(_FEATURES, _FEATURES, rngs=rngs, dtype=dtype)

    def __call__(self, tokens: Float[Array, "images tokens features"]) -> Float[Array, "..."]:
        images, count, features = tokens.shape
        of_heads = self.qkv(tokens).reshape(images, count, 3, _HEADS, features // _HEADS)
        query, key, value = (of_heads[:, :, i] for i in range(3))
        scale = (features // _HEADS) ** -0.5
        # The softmax is float32 whatever the arithmetic is.
        products = jnp.einsum(
            "iqhf,ikhf->ihqk", query * scale, key, preferred_element_type=jnp.float32
        )
        weights = jax.nn.softmax(products, axis=-1).astype(value.dtype)
        mixed = jnp.einsum("ihqk,ikhf->iqhf", weights, value)
        return self.proj(mixed.reshape(images, count, features))


class _Perceptron(nnx.Module):
    """Two dense layers with the exact GELU between them."""

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any) -> None:
        self.fc1 = dense(_FEATURES, 4 * _FEATURES, rngs=rngs, dtype=dtype)
        self.fc2 = dense(4 * _FEATURES, _FEATURES, rngs=rngs, dtype=dtype)

    def __call__(self, tokens: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.fc2(jax.nn.gelu(self.fc1(tokens), approximate=False))


class _Block(nnx.Module):
    """Attention and perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, **common: Any) -> None:
        self.norm1 = layer_norm(_FEATURES, **common)
        self.attn = _Attention(**common)
        self.norm2 = layer_norm(_FEATURES, **common)
        self.mlp = _Perceptron(**common)

    def __call__(self, tokens: Float[Array, "..."]) -> Float[Array, "..."]:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _Patches(nnx.Module):
    """The patches as tokens (N, patches, features), row by row."""

    def __init__(self, **common: Any) -> None:
        self.proj = convolution(3, _FEATURES, kernel=_PATCH, stride=_PATCH, **common)

    def __call__(self, images: Float[Array, "..."]) -> Float[Array, "images patches features"]:
        features = self.proj(images)
        return features.reshape(len(features), -1, features.shape[-1])


class VisionTransformer(nnx.Module):
    """16x16 patches and a class token, positions added, 12 blocks, layer norm, dense 1000."""

    def __init__(self, *, scaling: InputScaling, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        tokens = 1 + (IMAGE_SHAPE[0] // _PATCH) * (IMAGE_SHAPE[1] // _PATCH)
        normal = jax.nn.initializers.normal(0.02, jnp.float32)
        self.scaling = scaling
        self.cls_token = nnx.Param(normal(rngs.params(), (1, 1, _FEATURES)))
        self.pos_embed = nnx.Param(normal(rngs.params(), (1, tokens, _FEATURES)))
        self.patch_embed = _Patches(**common)
        self.blocks = nnx.List([_Block(**common) for _ in range(_BLOCKS)])
        self.norm = layer_norm(_FEATURES, **common)
        self.head = dense(_FEATURES, CLASSES, **common)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, 1000) of images (N, 224, 224, 3) in [0, 1], noise included."""
        check_images(images, IMAGE_SHAPE)
        patches = self.patch_embed(self.scaling(images))
        first = self.cls_token[...].astype(patches.dtype)
        first = jnp.broadcast_to(first, (len(patches), *first.shape[1:]))
        tokens = jnp.concatenate([first, patches], axis=1)
        tokens = tokens + self.pos_embed[...].astype(patches.dtype)
        for block in self.blocks:
            tokens = block(tokens)
        return logits(self.head(self.norm(tokens)[:, 0]))
