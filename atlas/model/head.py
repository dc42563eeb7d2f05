"""Logits of the wanted classes from two features of an image and an embedding of each class.

The layers that end the network are not learnt: a controller computes them for every sample and class from the image
and the class (CLIP-Driven Universal Model, Liu et al., ICCV 2023, section 3.2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from atlas.errors import SpecError
from atlas.model.dynamic import NUMBERS, WIDTH, dynamic_layers
from atlas.model.project import project

HIDDEN = 256
"""Numbers that describe the image, and numbers that describe a class."""

GROUPS = 16
"""Groups of channels that are normalised together."""

AXES = 5
"""Sample, channel, z, y, x."""


class Logits(NamedTuple):
    """What the head answers: logits float (P, D, H, W) and pairs int64 (P, 2), (sample, class), ascending."""

    logits: torch.Tensor
    pairs: torch.Tensor


class UniversalHead(nn.Module):
    """Text-driven head: class embedding + image -> three 1x1x1 layers (8-8-8-1) for each class.

    Parameters
    ----------
    deep_channels, decoder_channels
        Channels Cd of the deepest feature and Cf of the decoder's feature at full resolution.
    embedding
        Length E of a class embedding.
    groups
        Groups of both normalisations; divides both numbers of channels.

    Raises
    ------
    SpecError
        The groups do not divide the channels.
    """

    def __init__(self, deep_channels: int, decoder_channels: int, embedding: int = 512, groups: int = GROUPS) -> None:
        super().__init__()
        for name, channels in (("deep", deep_channels), ("decoder", decoder_channels)):
            _check_groups(name, channels, groups)
        self.channels = (deep_channels, decoder_channels)
        self.text = nn.Linear(embedding, HIDDEN)
        self.image = nn.Sequential(
            nn.GroupNorm(groups, deep_channels),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(deep_channels, HIDDEN, 1),
        )
        self.controller = nn.Conv3d(2 * HIDDEN, NUMBERS, 1)
        self.shared = nn.Sequential(
            nn.GroupNorm(groups, decoder_channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(decoder_channels, WIDTH, 1),
        )

    def forward(
        self,
        deep: torch.Tensor,
        decoder: torch.Tensor,
        embeddings: torch.Tensor,
        available: torch.Tensor | None = None,
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

        Returns
        -------
        Logits
            (P, D, H, W) before the sigmoid, float64 if the decoder's feature is and float32 otherwise, and the P
            pairs (sample, class), sample by sample. P may be 0; every parameter's gradient is then zero.

        Raises
        ------
        SpecError
            The shapes do not fit each other or the head.
        """
        _check_feature("deep", deep, self.channels[0], len(deep))
        _check_feature("decoder", decoder, self.channels[1], len(deep))
        _check_classes(embeddings, self.text.in_features, available, len(deep))
        pairs, counts = _wanted(len(deep), len(embeddings), available, deep.device)
        numbers = self._numbers(deep, embeddings, pairs)
        shared = project(decoder.flatten(2), self.shared)
        logits = dynamic_layers(shared, numbers, counts)
        return Logits(logits.view(len(pairs), *decoder.shape[2:]), pairs)

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
    logits, pairs = found
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
