"""The universal model: a backbone, the vectors of the classes, and the head that joins the two."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from atlas.errors import SpecError
from atlas.model.head import GROUPS, Logits, UniversalHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.model.backbones import Backbone
    from atlas.model.class_vectors import FixedVectors, LearnedVectors


class UniversalNetwork(nn.Module):
    """Logits of any classes from an image.

    Parameters
    ----------
    backbone
        Features of an image.
    vectors
        Of the K classes, in the order of the channels.
    heads
        How many classes each head has, in order; the sum is K. One head for all, where not given. Classes that were
        added to a trained model may have a head of their own, so that the others stay as they are.

    Raises
    ------
    SpecError
        If the heads do not have all classes.
    """

    def __init__(
        self, backbone: Backbone, vectors: FixedVectors | LearnedVectors, heads: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.backbone, self.vectors = backbone, vectors
        self.counts = tuple(heads or (len(vectors.names),))
        if sum(self.counts) != len(vectors.names) or min(self.counts) < 1:
            raise SpecError(f"heads of {self.counts} classes for {len(vectors.names)} classes")
        channels = (backbone.deep_channels, backbone.decoder_channels, *backbone.level_channels)
        groups = math.gcd(GROUPS, *channels)  # 16 for all published widths, fewer for narrow networks
        self.heads = nn.ModuleList(
            UniversalHead(channels[0], channels[1], vectors.width, groups, channels[2:]) for _ in self.counts
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes in the order of the channels."""
        return self.vectors.names

    def forward(self, image: torch.Tensor, available: torch.Tensor | None = None, *, levels: bool = False) -> Logits:
        """Logits of the wanted (sample, class) pairs.

        Parameters
        ----------
        image
            float (B, 1, D, H, W), as `atlas.stream.Batch.image`. Sides are multiples of ``backbone.divisor``.
        available
            bool (B, K): the wanted pairs; None: all. On the host, nothing waits for the device.
        levels
            Also of the further decoder features, for deep supervision.

        Returns
        -------
        Logits
            Pairs in ascending order; see `UniversalHead.forward`.
        """
        features = self.backbone(image)
        further = features.levels if levels else ()
        vectors, found, first = self.vectors(), [], 0
        for head, count in zip(self.heads, self.counts, strict=True):
            rows = slice(first, first + count)
            wanted = None if available is None else available[:, rows]
            part = head(features.deep, features.decoder, vectors[rows], wanted, further)
            shift = torch.tensor([0, first], device=part.pairs.device)
            found.append(part._replace(pairs=part.pairs + shift))
            first += count
        return found[0] if len(found) == 1 else _joined(found)


def _joined(parts: Sequence[Logits]) -> Logits:
    pairs = torch.cat([part.pairs for part in parts])
    classes = 1 + int(pairs[:, 1].max()) if len(pairs) else 1
    order = torch.argsort(pairs[:, 0] * classes + pairs[:, 1])
    logits = [torch.cat(level)[order] for level in zip(*((p.logits, *p.levels) for p in parts), strict=True)]
    return Logits(logits[0], pairs[order], tuple(logits[1:]))
