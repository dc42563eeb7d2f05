"""Which augmentation is wanted: a probability and a range for each kind."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar

from atlas.errors import SpecError
from atlas.stream.augment.draw import draw_parameters
from atlas.stream.augment.parameters import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.stream.augment.parameters import Parameters


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _check_probability(name: str, value: object) -> None:
    if not _is_number(value) or not 0 <= value <= 1:  # type: ignore[operator]
        raise SpecError(f"{name} is a number from 0 to 1, not {value!r}")


@dataclass(frozen=True)
class Chance:
    """A transform happens to a patch with a probability; its strength then lies in a range.

    Attributes
    ----------
    probability
        In [0, 1]; 0 turns the transform off.
    low, high
        Ends of the range.

    Raises
    ------
    SpecError
        If a value is no number, or the range runs backwards.
    """

    probability: float
    low: float
    high: float

    def __post_init__(self) -> None:
        _check_probability("probability", self.probability)
        for end in (self.low, self.high):
            if not _is_number(end):
                raise SpecError(f"a range runs from number to number, not from {self.low!r} to {self.high!r}")
        if self.low > self.high:
            raise SpecError(f"a range runs from low to high, not from {self.low} to {self.high}")


OFF = Chance(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training patch, and how often.

    The numbers are those of nnU-Net v2 (`nnUNetTrainer.get_training_transforms`; isotropic patches, one channel,
    so that "apply" and "per channel" probabilities are multiplied) unless said otherwise. nnU-Net's image is in
    standard deviations of the CT, here it is in widths of the window (425 HU as the window stands by default).

    Attributes
    ----------
    rotation
        Degrees, drawn for each of the three axes.
    scaling
        Magnification. nnU-Net goes from 1/1.4 to 1/0.7 on patches that it reads larger than the network's;
        here what would lie outside the patch is lost (air, and unknown for every class), so that things shrink less:
        at 0.85 already two fifths of the voxels are lost. Below 1 costs voxels, above 1 does not.
    per_axis
        Scale each axis by a factor of its own.
    elastic
        Largest displacement of a control point, in voxels of the patch. Control points are a quarter of the patch
        apart; more than 0.4 of that could fold the image (Choi and Lee, Graphical Models 62, 2000) and is refused. Off,
        as in nnU-Net v2; for patches of 96 voxels `Chance(0.2, 0, 6)` is a sensible strength.
    quarter_turns
        Probability of turning by 90, 180 or 270 degrees about the body's axis, by 180 where the patch is not
        square in (y, x). Off: the patient then lies on a side or on the face, and at 180 degrees left organs are
        right while their classes stay what they were.
    mirror
        Probability of swapping left and right. Classes that have a mirror class are swapped with it and stay right.
        Off, because organs without one (liver, spleen, stomach) then lie on the wrong side of the body.
    noise
        Standard deviation of Gaussian noise.
    blur
        Standard deviation of the Gaussian in voxels, drawn for each axis.
    brightness, contrast
        Factor about 0, and about the patch's mean.
    shift
        What is added (probability and range of the reference system).
    low_resolution
        Resolution that is left: picked at so many voxels an axis, and interpolated back.
    inverted_gamma, gamma
        Exponent on the image turned upside down, and as it is; mean and standard deviation are kept.

    Raises
    ------
    SpecError
        If a probability or a range is not possible.

    Notes
    -----
    Factors and exponents whose range holds 1 are below and above 1 equally often, as in nnU-Net (`BGContrast`).
    """

    rotation: Chance = Chance(0.2, -30.0, 30.0)
    scaling: Chance = Chance(0.2, 0.85, 1.4)
    per_axis: bool = False
    elastic: Chance = OFF
    quarter_turns: float = 0.0
    mirror: float = 0.0
    noise: Chance = Chance(0.1, 0.0, 0.1)
    blur: Chance = Chance(0.1, 0.5, 1.0)
    brightness: Chance = Chance(0.15, 0.75, 1.25)
    contrast: Chance = Chance(0.15, 0.75, 1.25)
    shift: Chance = Chance(0.2, -0.1, 0.1)
    low_resolution: Chance = Chance(0.125, 0.5, 1.0)
    inverted_gamma: Chance = Chance(0.1, 0.7, 1.5)
    gamma: Chance = Chance(0.3, 0.7, 1.5)

    _COLUMN: ClassVar[dict[str, str]] = {"scaling": "scale"}

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check(field.name, getattr(self, field.name))

    def _check(self, name: str, value: object) -> None:
        if name == "per_axis":
            if not isinstance(value, bool):
                raise SpecError(f"per_axis is True or False, not {value!r}")
        elif name in {"quarter_turns", "mirror"}:
            _check_probability(name, value)
        elif not isinstance(value, Chance):
            raise SpecError(f"{name} is a Chance(probability, low, high), not {value!r}")
        elif value.probability:
            low, high = (0.0, 64.0) if name == "elastic" else COLUMNS[self._COLUMN.get(name, name)][2:4]
            if not low <= value.low <= value.high <= high:
                raise SpecError(f"{name} from {value.low} to {value.high} is out of bounds: {low:g} to {high:g}")

    @classmethod
    def none(cls) -> Augmentation:
        """Nothing at all; `dataclasses.replace` turns on what is wanted."""
        off = {field.name: OFF for field in fields(cls) if isinstance(field.default, Chance)}
        return cls(**off)  # type: ignore[arg-type]

    @classmethod
    def reference(cls, *, quarter_turns: float = 0.0) -> Augmentation:
        """What the CLIP-driven universal model is trained with.

        Zoom by 1.3 to 1.5 with probability 0.3, shift by up to 0.1 of the window with probability 0.2. The reference
        zooms the patches of some datasets only, before the crop and without interpolation of the image; here it is
        every patch, linear.

        Parameters
        ----------
        quarter_turns
            0.1 in the reference. Off here, because it breaks the meaning of left and right.
        """
        chosen = {"scaling": Chance(0.3, 1.3, 1.5), "shift": Chance(0.2, -0.1, 0.1)}
        return replace(cls.none(), **chosen, quarter_turns=quarter_turns)  # type: ignore[arg-type]

    def draw(self, seed: int, index: Sequence[int] | NDArray[Any], patch: tuple[int, int, int]) -> Parameters:
        """Parameters of patches by their numbers in the run; see `draw_parameters`."""
        return draw_parameters(self, seed, index, patch)
