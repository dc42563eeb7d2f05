"""More classes for a trained model, and a trained model as the beginning of another.

A class of the universal model is a vector, so a new class is a new row; the network stays as it is. What the model
knew is kept in one of two ways. *Distillation*: where a class that it had is not annotated, the trained model's own
probabilities are the target (Li and Hoiem, Learning without Forgetting, ECCV 2016), so that unlabelled voxels teach
too. *Freezing*: only a head of the new classes' own is trained; then the old classes' outputs stay as they are, bit
for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from atlas.errors import SpecError
from atlas.model.backbones import build_backbone
from atlas.model.class_vectors import FixedVectors, LearnedVectors
from atlas.model.network import UniversalNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.model.backbones import Backbone
    from atlas.model.embeddings import ClassEmbeddings
    from atlas.model.head import Logits
    from atlas.spec.training import ModelSpec
    from atlas.train.run import Trained


def extended_network(
    trained: Trained, names: Sequence[str], embeddings: ClassEmbeddings | None, *, own_head: bool
) -> UniversalNetwork:
    """A trained network with more classes behind those it has.

    Parameters
    ----------
    trained
        What is extended; it is left as it is.
    names
        Of the new classes.
    embeddings
        Their vectors, made as those of the others were; None where the vectors are learned.
    own_head
        Whether the new classes get a head of their own, which begins as a copy of the last one.

    Raises
    ------
    SpecError
        If a class is there already, or the vectors are of another kind than those that the model has.
    """
    vectors = _longer(trained.network.vectors, names, embeddings)
    counts = trained.network.counts
    counts = (*counts, len(names)) if own_head else (*counts[:-1], counts[-1] + len(names))
    network = UniversalNetwork(_same_backbone(trained.description.recipe.model), vectors, counts)
    network.backbone.load_state_dict(trained.network.backbone.state_dict())
    for head, known in zip(network.heads, (*trained.network.heads, trained.network.heads[-1]), strict=False):
        head.load_state_dict(known.state_dict())
    return network


def finetuned_network(trained: Trained, vectors: FixedVectors | LearnedVectors) -> UniversalNetwork:
    """A network for other classes that begins with the weights of a trained one.

    Parameters
    ----------
    trained
        What to begin with.
    vectors
        Of the classes. Where they are learned, a class that the model has begins with the vector that it has there.

    Raises
    ------
    SpecError
        If the vectors are not as long as those that the model has.
    """
    if vectors.width != trained.network.vectors.width:
        raise SpecError(
            f"class vectors of {vectors.width} numbers, the trained model has {trained.network.vectors.width}: "
            "fine-tune with the embeddings that it was trained with"
        )
    if isinstance(vectors, LearnedVectors):
        shared = [name for name in vectors.names if name in trained.classes]
        with torch.no_grad():
            known = trained.network.vectors.vectors.cpu()
            vectors.vectors[vectors.rows(shared)] = known[trained.network.vectors.rows(shared)]
    network = UniversalNetwork(_same_backbone(trained.description.recipe.model), vectors)
    network.backbone.load_state_dict(trained.network.backbone.state_dict())
    network.heads[0].load_state_dict(trained.network.heads[0].state_dict())
    return network


def freeze_known(network: UniversalNetwork) -> None:
    """Let nothing be trained but the last head."""
    network.requires_grad_(requires_grad=False)
    network.heads[-1].requires_grad_(requires_grad=True)


class Distillation:
    """The trained model as a teacher of the classes that it has, where they are not annotated.

    Parameters
    ----------
    teacher
        The trained network; its classes are the first of the student's.
    weight
        Of the term beside the loss.
    """

    def __init__(self, teacher: UniversalNetwork, weight: float) -> None:
        self.teacher = teacher.eval().requires_grad_(requires_grad=False)
        self.weight = weight
        self.known = len(teacher.classes)

    def wanted(self, available: torch.Tensor) -> torch.Tensor:
        """Pairs that the student must predict, bool (B, K): what is annotated, and all that the teacher knows."""
        wanted = available.clone()
        wanted[:, : self.known] = True
        return wanted

    def loss(self, image: torch.Tensor, available: torch.Tensor, found: Logits) -> torch.Tensor:
        """Weighted mean cross-entropy with the teacher's probabilities, over the pairs that are not annotated.

        Parameters
        ----------
        image
            (B, 1, D, H, W).
        available
            bool (B, K), on the host.
        found
            What the student answered for `wanted(available)`.
        """
        taught = ~available[:, : self.known]
        if not taught.any():
            return found.logits[:0].sum()
        with torch.no_grad():
            target = self.teacher(image, taught).logits.sigmoid()
        pairs = found.pairs.cpu()
        chosen = (pairs[:, 1] < self.known).nonzero()[:, 0]
        chosen = chosen[taught[pairs[chosen, 0], pairs[chosen, 1]]].to(found.logits.device)
        # both answer in ascending order of (sample, class)
        return self.weight * binary_cross_entropy_with_logits(found.logits[chosen].float(), target.float())


def _same_backbone(model: ModelSpec) -> Backbone:
    return build_backbone(model.backbone, model.deep_supervision)


def _longer(
    vectors: FixedVectors | LearnedVectors, names: Sequence[str], embeddings: ClassEmbeddings | None
) -> FixedVectors | LearnedVectors:
    if isinstance(vectors, LearnedVectors):
        return vectors.extended(names)
    if embeddings is None:
        raise SpecError("the trained model's class vectors are given, not learned: new classes need theirs")
    return vectors.extended(embeddings)
