"""Logits of the wanted classes from two features of an image and an embedding of each class.

The layers that end the network are not learnt: a controller computes them for every sample and class from the image
and the class (CLIP-Driven Universal Model, Liu et al., ICCV 2023, section 3.2).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from atlas.errors import SpecError
from atlas.model.dynamic import NUMBERS, SPLIT, WIDTH, dynamic_layers
from atlas.model.project import project

if TYPE_CHECKING:
    from collections.abc import Sequence

HIDDEN = 256
"""Numbers that describe the image, and numbers that describe a class."""

GROUPS = 16
"""Groups of channels that are normalised together."""

RARE = 0.05
"""Probability of every class in every voxel before any training."""

AXES = 5
"""Sample, channel, z, y, x."""


class Logits(NamedTuple):
    """What the head answers.

    Attributes
    ----------
    logits
        float (P, D, H, W).
    pairs
        int64 (P, 2), (sample, class), ascending.
    levels
        Of further decoder features, float (P, d, h, w) each, of the same pairs: for deep supervision.
    """

    logits: torch.Tensor
    pairs: torch.Tensor
    levels: tuple[torch.Tensor, ...] = ()


class UniversalHead(nn.Module):
    """Text-driven head: class embedding + image -> three 1x1x1 layers (8-8-8-1) for each class.

    Parameters
    ----------
    deep_channels, decoder_channels
        Channels Cd of the deepest feature and Cf of the decoder's feature at full resolution.
    embedding
        Length E of a class embedding.
    groups
        Groups of all normalisations; divides all numbers of channels.
    level_channels
        Channels of further decoder features. Each has its own projection to the shared feature, and all have the
        same layers of a class.

    Raises
    ------
    SpecError
        The groups do not divide the channels.
    """

    def __init__(
        self,
        deep_channels: int,
        decoder_channels: int,
        embedding: int = 512,
        groups: int = GROUPS,
        level_channels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.channels = (deep_channels, decoder_channels, *level_channels)
        for name, channels in zip(_feature_names(len(level_channels)), self.channels, strict=True):
            _check_groups(name, channels, groups)
        self.text = nn.Linear(embedding, HIDDEN)
        self.image = nn.Sequential(
            nn.GroupNorm(groups, deep_channels),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(deep_channels, HIDDEN, 1),
        )
        self.controller = nn.Conv3d(2 * HIDDEN, NUMBERS, 1)
        self._begin()
        self.shared = _projection(decoder_channels, groups)
        self.levels = nn.ModuleList(_projection(channels, groups) for channels in level_channels)

    def _begin(self) -> None:
        """Let the layers of all classes begin as those of an ordinary network, from which the controller departs.

        Weights as He et al. (ICCV 2015) draw them, so that a signal keeps its size through the layers (left to itself,
        the controller's default bias makes it a tenth of that in each of them), and a last bias with which every class
        begins as rare as most are (Lin et al., Focal Loss, ICCV 2017).
        """
        with torch.no_grad():
            w1, w2, w3, b1, b2, b3 = self.controller.bias.split(SPLIT)  # type: ignore[union-attr]
            for weights in (w1, w2):
                nn.init.normal_(weights, std=math.sqrt(2 / WIDTH))
            nn.init.normal_(w3, std=math.sqrt(1 / WIDTH))
            nn.init.zeros_(b1)
            nn.init.zeros_(b2)
            nn.init.constant_(b3, math.log(RARE / (1 - RARE)))

    def forward(
        self,
        deep: torch.Tensor,
        decoder: torch.Tensor,
        embeddings: torch.Tensor,
        available: torch.Tensor | None = None,
        levels: Sequence[torch.Tensor] = (),
    ) -> Logits:
        """Logits of the wanted (sample, class) pairs; nothing is computed for the others.

        Parameters
        ----------
        deep
            Deepest feature (B, Cd, d, h, w).
        decoder
            Decoder's feature (B, Cf, D, H, W).
        embeddings
            (K, E), one row a class.
        available
            bool (B, K): the wanted pairs; None: all.
        levels
            Further decoder features (B, C, d, h, w), all that the head was made for or none.

        Returns
        -------
        Logits
            (P, D, H, W) before the sigmoid, float64 if the decoder's feature is and float32 otherwise, and the P
            pairs (sample, class), sample by sample; and the same of each level. P may be 0; every parameter's
            gradient is then zero.

        Raises
        ------
        SpecError
            The shapes do not fit each other or the head.
        """
        if levels and len(levels) != len(self.levels):
            raise SpecError(f"{len(levels)} further decoder features, the head was made for {len(self.levels)}")
        features = (deep, decoder, *levels)
        for name, feature, channels in zip(_feature_names(len(levels)), features, self.channels, strict=False):
            _check_feature(name, feature, channels, len(deep))
        _check_classes(embeddings, self.text.in_features, available, len(deep))
        pairs, counts = _wanted(len(deep), len(embeddings), available, deep.device)
        numbers = self._numbers(deep, embeddings, pairs)
        logits = [
            dynamic_layers(project(feature.flatten(2), layers), numbers, counts).view(len(pairs), *feature.shape[2:])
            for feature, layers in zip((decoder, *levels), (self.shared, *self.levels), strict=False)
        ]
        return Logits(logits[0], pairs, tuple(logits[1:]))

    def _numbers(self, deep: torch.Tensor, embeddings: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        """(P, 153). The controller is linear: its image part and its class part are computed once each and added."""
        weight = self.controller.weight
        with torch.autocast(deep.device.type, enabled=False):
            image = self.image(deep.to(weight.dtype)).flatten(1)
            text = torch.relu(self.text(embeddings.to(weight.dtype)))
            of_image, of_text = weight.flatten(1).tensor_split(2, dim=1)
            of_images = nn.functional.linear(image, of_image, self.controller.bias)
            of_texts = nn.functional.linear(text, of_text)
            return of_images[pairs[:, 0]] + of_texts[pairs[:, 1]]


def scatter(found: Logits, samples: int, classes: int, fill: float = float("-inf")) -> torch.Tensor:
    """One channel a class.

    Parameters
    ----------
    found
        Logits of the wanted pairs, as the head gives them.
    samples, classes
        B and K.
    fill
        Logit of every pair that was not wanted; the default becomes 0 in a sigmoid.

    Returns
    -------
    Tensor
        (B, K, D, H, W), of the logits' type and differentiable; a view where all pairs were wanted.
    """
    logits, pairs = found.logits, found.pairs
    if len(pairs) == samples * classes:  # all, and in this order
        return logits.view(samples, classes, *logits.shape[1:])
    whole = logits.new_full((samples, classes, *logits.shape[1:]), fill)
    return whole.index_put((pairs[:, 0], pairs[:, 1]), logits)


def _wanted(
    samples: int, classes: int, available: torch.Tensor | None, device: torch.device
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Pairs int64 (P, 2) in ascending order, and how many each sample has."""
    if available is None:
        every = torch.ones(samples, classes, dtype=torch.bool)
        return every.nonzero().to(device), (classes,) * samples
    host = available.cpu()  # the one wait for the device; none where availability is kept on the host
    return host.nonzero().to(device), tuple(host.sum(1).tolist())


def _feature_names(levels: int) -> list[str]:
    return ["deep", "decoder", *(f"decoder's level {i + 1}" for i in range(levels))]


def _projection(channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(groups, channels), nn.ReLU(inplace=True), nn.Conv3d(channels, WIDTH, 1))


def _check_groups(name: str, channels: int, groups: int) -> None:
    if groups < 1 or channels < 1 or channels % groups:
        raise SpecError(
            f"{groups} groups do not divide the {channels} channels of the {name} feature: choose a backbone width "
            f"that is a multiple of {groups}, or another number of groups"
        )


def _check_feature(name: str, feature: torch.Tensor, channels: int, samples: int) -> None:
    if feature.ndim != AXES or feature.shape[:2] != (samples, channels) or 0 in feature.shape:
        raise SpecError(
            f"the {name} feature is (B, {channels}, z, y, x) here with B the same for both features, "
            f"not {tuple(feature.shape)}"
        )


def _check_classes(embeddings: torch.Tensor, length: int, available: torch.Tensor | None, samples: int) -> None:
    if embeddings.shape[1:] != (length,):
        raise SpecError(f"class embeddings are (K, {length}) here, not {tuple(embeddings.shape)}")
    wanted = (samples, len(embeddings))
    if available is not None and (available.shape != wanted or available.dtype != torch.bool):
        raise SpecError(f"`available` is bool {wanted} here, not {available.dtype} {tuple(available.shape)}")
