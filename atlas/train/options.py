"""The parts of a recipe that are keywords of other classes: sampling, augmentation, loss."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from atlas.errors import SpecError
from atlas.model.loss_spec import LossSpec
from atlas.stream import Augmentation, Chance, Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from atlas.spec.training import TrainingRecipe

T = TypeVar("T")

CHANCE = "[probability, low, high]"
"""How a recipe writes a `Chance`."""


class Settings(NamedTuple):
    """What a recipe says of patches and loss, checked."""

    sampling: Sampling
    augmentation: Augmentation | None
    loss: LossSpec


def settings_of(recipe: TrainingRecipe, classes: Sequence[str]) -> Settings:
    """Settings of a training.

    Parameters
    ----------
    recipe
        What to train.
    classes
        Channels of the model: weights of classes are put in their order.

    Raises
    ------
    SpecError
        If a keyword is unknown (the valid ones are listed) or its value is not one, naming the entry of the recipe.
    """
    data = recipe.data
    return Settings(
        sampling=_made(Sampling, "data.sampling", {k: _frozen(v) for k, v in data.sampling.items()}),
        augmentation=None if data.augmentation is None else augmentation_of(data.augmentation),
        loss=loss_of(recipe.loss, recipe.model.deep_supervision, classes),
    )


def augmentation_of(options: Mapping[str, Any]) -> Augmentation:
    """Augmentation of a recipe: a `Chance` is written as [probability, low, high]."""
    chances = {field.name for field in fields(Augmentation) if isinstance(field.default, Chance)}
    return _made(
        Augmentation,
        "data.augmentation",
        {name: _chance(name, value) if name in chances else value for name, value in options.items()},
    )


def loss_of(options: Mapping[str, Any], deep_supervision: int, classes: Sequence[str]) -> LossSpec:
    """Loss of a recipe.

    Parameters
    ----------
    options
        Keywords of `LossSpec`. `class_weights` may be weights by name; a class that is not named has 1.
    deep_supervision
        Further levels of the decoder that are supervised: where `levels` is not given, each weighs half of the one
        before, as in nnU-Net.
    classes
        Channels of the model.
    """
    chosen: dict[str, Any] = {"levels": tuple(0.5**i for i in range(deep_supervision + 1))}
    chosen.update({name: _frozen(value) for name, value in options.items()})
    if isinstance(chosen.get("class_weights"), dict):
        chosen["class_weights"] = _by_name(chosen["class_weights"], classes)
    spec = _made(LossSpec, "loss", chosen)
    if len(spec.levels) != deep_supervision + 1:
        raise SpecError(
            f"loss.levels: {len(spec.levels)} weights, but model.deep_supervision {deep_supervision} has "
            f"{deep_supervision + 1} levels with the full resolution; give as many, or leave levels out"
        )
    if spec.class_weights is not None and len(spec.class_weights) != len(classes):
        raise SpecError(f"loss.class_weights: {len(spec.class_weights)} weights for {len(classes)} classes")
    return spec


def _by_name(weights: Mapping[str, Any], classes: Sequence[str]) -> tuple[Any, ...]:
    if strange := sorted(set(weights) - set(classes)):
        raise SpecError(f"loss.class_weights: {', '.join(strange)} is not a class of the model: {', '.join(classes)}")
    return tuple(weights.get(name, 1.0) for name in classes)


def _made(kind: type[T], entry: str, options: Mapping[str, Any]) -> T:
    valid = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if strange := [name for name in options if name not in valid]:
        raise SpecError(f"{entry}: no option is called {', '.join(strange)}; there are: {', '.join(valid)}")
    try:
        return kind(**options)
    except (SpecError, TypeError, ValueError) as error:
        raise SpecError(f"{entry}: {error}") from error


def _chance(name: str, value: object) -> Chance:
    if not isinstance(value, list | tuple) or len(value) != len(fields(Chance)):
        raise SpecError(f"data.augmentation: {name} is {CHANCE}, not {value!r}")
    try:
        return Chance(*value)
    except SpecError as error:
        raise SpecError(f"data.augmentation: {name}: {error}") from None


def _frozen(value: object) -> object:
    """Lists of YAML as the tuples that the classes keep."""
    return tuple(value) if isinstance(value, list) else value
