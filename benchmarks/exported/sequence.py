"""Transformers, recurrent and audio networks with random weights, in the way people write them in PyTorch.

`MODELS` names them. Where the `transformers` package is installed, its BERT, GPT-2 and ViT are there as well, under
names that begin with "transformers_"; they have random weights, too: nothing is downloaded.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .model import Axes, Example

torch.backends.mha.set_fastpath_enabled(False)  # its fused layer has no ONNX form

MODELS: dict[str, Callable[[], Example]] = {}
"""The networks by name; each function builds one anew, always with the same weights."""


def model(build: Callable[[], Example]) -> Callable[[], Example]:
    """Add a network to `MODELS` under the function's name."""

    def seeded() -> Example:
        torch.manual_seed(0)
        example = build()
        return example._replace(module=example.module.eval().requires_grad_(False))

    MODELS[build.__name__] = seeded
    return seeded


# Transformers


class Attention(nn.Module):
    """Self-attention with several heads and one linear layer for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, past: tuple[Tensor, Tensor] | None = None, causal: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The result, and the keys and values (batch, heads, length, width of a head), those of `past` included."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width)), k, v


class Block(nn.Module):
    """Attention and two linear layers; normalised before each (GPT-2, ViT) or after the sum (BERT)."""

    def __init__(self, width: int, heads: int, *, before: bool, approximate: str = "none") -> None:
        super().__init__()
        self.before = before
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, **attention: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The result, and the keys and values; arguments as for `Attention`."""
        mixed, k, v = self.attention(self.norm1(x) if self.before else x, **attention)
        x = x + mixed
        if self.before:
            return x + self.mlp(self.norm2(x)), k, v
        x = self.norm1(x)
        return self.norm2(x + self.mlp(x)), k, v


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al. 2021) with a class token and learned positions."""

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, before=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Scores (batch, classes) of images (batch, 3, size, size)."""
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)[0]
        scores: Tensor = self.head(self.norm(x)[:, 0])
        return scores


class Bert(nn.Module):
    """BERT's encoder and pooler (Devlin et al. 2019)."""

    def __init__(self, words: int = 30522, width: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.words, self.places, self.kinds = (nn.Embedding(n, width) for n in (words, 512, 2))
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, before=False) for _ in range(depth))
        self.pooler = nn.Linear(width, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The last hidden states, and the pooled first one; all inputs are int64 (batch, length)."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.places(places) + self.kinds(token_type_ids))
        mask = attention_mask[:, None, None, :].to(torch.bool)
        for block in self.blocks:
            x = block(x, mask=mask)[0]
        return x, torch.tanh(self.pooler(x[:, 0]))


class Gpt2(nn.Module):
    """GPT-2 (Radford et al. 2019); the last layer shares its weights with the embedding."""

    def __init__(self, words: int = 50257, width: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(1024, width)
        self.blocks = nn.ModuleList(Block(width, heads, before=True, approximate="tanh") for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Scores (batch, length, words), then keys and values of each block; `past` are those of earlier tokens.

        With `past`, there is one new token.
        """
        start = past[0].shape[2] if past else 0
        places = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)
        x = self.words(input_ids) + self.places(places)
        cache: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            pair = (past[2 * number], past[2 * number + 1]) if past else None
            x, k, v = block(x, past=pair, causal=not past)
            cache += [k, v]
        return (functional.linear(self.norm(x), self.words.weight), *cache)


def _ids(words: int, length: int) -> Tensor:
    return torch.randint(0, words, (1, length))


def _mask(length: int, padded: int) -> Tensor:
    """An attention mask whose last `padded` places are 0."""
    return (torch.arange(length) < length - padded).long()[None]


def _bert_axes() -> Axes:
    return {name: {1: "length"} for name in ("input_ids", "attention_mask", "token_type_ids")}


def _cache(depth: int, heads: int, length: int) -> tuple[list[Tensor], list[str]]:
    """Keys and values of `length` tokens, and their names."""
    names = [f"past_{kind}_{number}" for number in range(depth) for kind in ("key", "value")]
    return [torch.randn(1, heads, length, 64) for _ in names], names


@model
def vit_tiny() -> Example:
    """A small ViT on small images."""
    return Example(VisionTransformer(64, 8, 192, 4, 3, 10), (torch.randn(1, 3, 64, 64),), ["image"])


@model
def vit_b_16() -> Example:
    """ViT-B/16."""
    return Example(VisionTransformer(224, 16, 768, 12, 12, 1000), (torch.randn(1, 3, 224, 224),), ["image"])


@model
def bert_base() -> Example:
    """BERT-base over 128 tokens, of which 28 are padding."""
    inputs = (_ids(30522, 128), _mask(128, 28), torch.zeros(1, 128, dtype=torch.int64))
    return Example(Bert(), inputs, ["input_ids", "attention_mask", "token_type_ids"], _bert_axes())


@model
def gpt2_prompt() -> Example:
    """GPT-2 small over 64 tokens."""
    return Example(Gpt2(), (_ids(50257, 64),), ["input_ids"], {"input_ids": {1: "length"}})


@model
def gpt2_step() -> Example:
    """GPT-2 small over one token, after 64 others."""
    past, names = _cache(12, 12, 64)
    return Example(Gpt2(), (_ids(50257, 1), *past), ["input_ids", *names])


@model
def encoder_layers() -> Example:
    """PyTorch's own nn.TransformerEncoder: 4 layers of 256."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, norm_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    for weights in encoder.parameters():  # copies of one layer so far
        if weights.ndim > 1:
            nn.init.xavier_uniform_(weights)
    return Example(encoder, (torch.randn(2, 50, 256),), ["data"])


class Translator(nn.Module):
    """PyTorch's nn.Transformer between embeddings and scores."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.transformer = nn.Transformer(width, 4, 3, 3, 4 * width, batch_first=True)
        self.head = nn.Linear(width, words)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Scores (batch, length of target, words)."""
        later = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).triu(1)
        mixed = self.transformer(self.words(source), self.words(target), tgt_mask=later, tgt_is_causal=True)
        scores: Tensor = self.head(mixed)
        return scores


@model
def encoder_decoder() -> Example:
    """A small translator: 40 tokens to 30."""
    return Example(Translator(1000, 256), (_ids(1000, 40), _ids(1000, 30)), ["source", "target"])


# Recurrent networks


class Tagger(nn.Module):
    """Words, two recurrent layers that run both ways, scores of tags."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], words: int, width: int, hidden: int, tags: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.layers = kind(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, tags)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Scores (batch, length, tags) of words (batch, length)."""
        scores: Tensor = self.head(self.layers(self.words(input_ids))[0])
        return scores


@model
def lstm_tagger() -> Example:
    """An LSTM over 64 words."""
    return Example(Tagger(nn.LSTM, 5000, 128, 256, 20), (_ids(5000, 64),), ["input_ids"])


@model
def gru_tagger() -> Example:
    """GRUs over 64 words."""
    return Example(Tagger(nn.GRU, 5000, 128, 256, 20), (_ids(5000, 64),), ["input_ids"])


# Audio


class GlobalNorm(nn.Module):
    """Normalised over channels and time together, then scaled and shifted by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Of (batch, channels, time)."""
        mean = x.mean((1, 2), keepdim=True)
        variance = ((x - mean) ** 2).mean((1, 2), keepdim=True)
        return self.gamma * (x - mean) / (variance + 1e-8).sqrt() + self.beta


class Separator(nn.Module):
    """Conv-TasNet (Luo and Mesgarani 2019): a learned transform, masks from dilated convolutions, and back."""

    def __init__(self, filters: int, narrow: int, wide: int, rounds: int, depth: int, speakers: int) -> None:
        super().__init__()
        self.speakers = speakers
        self.encoder = nn.Conv1d(1, filters, 16, 8, bias=False)
        self.first = nn.Sequential(GlobalNorm(filters), nn.Conv1d(filters, narrow, 1))
        self.blocks = nn.ModuleList(self.block(narrow, wide, 2**k) for _ in range(rounds) for k in range(depth))
        self.masks = nn.Sequential(nn.PReLU(), nn.Conv1d(narrow, speakers * filters, 1), nn.Sigmoid())
        self.decoder = nn.ConvTranspose1d(filters, 1, 16, 8, bias=False)

    @staticmethod
    def block(narrow: int, wide: int, dilation: int) -> nn.Sequential:
        """A depthwise convolution between two of width 1."""
        return nn.Sequential(
            nn.Conv1d(narrow, wide, 1), nn.PReLU(), GlobalNorm(wide),
            nn.Conv1d(wide, wide, 3, padding=dilation, dilation=dilation, groups=wide), nn.PReLU(), GlobalNorm(wide),
            nn.Conv1d(wide, narrow, 1),
        )  # fmt: skip

    def forward(self, mixture: Tensor) -> Tensor:
        """One signal for each speaker (batch, speakers, samples) from a mixture (batch, 1, samples)."""
        coded = functional.relu(self.encoder(mixture))
        x = self.first(coded)
        for block in self.blocks:
            x = x + block(x)
        batch, filters, frames = coded.shape
        masked = self.masks(x).view(batch, self.speakers, filters, frames) * coded[:, None]
        signals: Tensor = self.decoder(masked.view(batch * self.speakers, filters, frames))
        return signals.view(batch, self.speakers, -1)


@model
def conv_tasnet() -> Example:
    """Conv-TasNet in the size of the paper, on a second of sound at 8 kHz."""
    return Example(Separator(512, 128, 512, 3, 8, 2), (torch.randn(1, 1, 8000),), ["mixture"])


# The transformers package


class Plain(nn.Module):
    """A model of `transformers` with tensors as inputs and outputs."""

    def __init__(self, inner: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.inner = inner
        self.names = names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The first two outputs (one of GPT-2 and ViT, which cache or pool nothing here)."""
        found = self.inner(**dict(zip(self.names, inputs, strict=True)), return_dict=False)
        return tuple(found[:2])


def _transformers(kind: str, attention: str, inputs: tuple[Tensor, ...], names: list[str], **config: Any) -> Example:
    hub = importlib.import_module("transformers")
    settings = getattr(hub, f"{kind}Config")(attn_implementation=attention, **config)
    head = {"Bert": "BertModel", "GPT2": "GPT2LMHeadModel", "ViT": "ViTForImageClassification"}[kind]
    return Example(Plain(getattr(hub, head)(settings), names), inputs, names)


def _optional() -> None:
    """Declare the models that need `transformers`, if it is there."""
    if importlib.util.find_spec("transformers") is None:
        return
    for attention in ("eager", "sdpa"):

        def bert(attention: str = attention) -> Example:
            inputs = (_ids(30522, 128), _mask(128, 28), torch.zeros(1, 128, dtype=torch.int64))
            return _transformers("Bert", attention, inputs, ["input_ids", "attention_mask", "token_type_ids"])

        def gpt2(attention: str = attention) -> Example:
            return _transformers("GPT2", attention, (_ids(50257, 64),), ["input_ids"], use_cache=False)

        def vit(attention: str = attention) -> Example:
            return _transformers("ViT", attention, (torch.randn(1, 3, 224, 224),), ["pixel_values"])

        for build in (bert, gpt2, vit):
            build.__name__ = f"transformers_{build.__name__}_{attention}"
            model(build)


_optional()
