"""What a text encoder reads: the words of each class, set into a template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.spec.taxonomy import Taxonomy

SLOT = "[CLS]"
"""Stands for the words of the class."""


@dataclass(frozen=True)
class Template:
    """One way to speak of a class.

    Parameters
    ----------
    text
        With one `[CLS]`; None where the wording is not known.
    source
        Where the wording is from.
    verified
        Whether it was read at its source. False: recalled, to be compared with the paper before it is relied on.
    """

    text: str | None
    source: str
    verified: bool


PAPER = "Liu et al., CLIP-Driven Universal Model, ICCV 2023 (arXiv 2301.00785) and its extension (arXiv 2405.18356)"

TEMPLATES = {
    "V1": Template("A photo of a [CLS].", PAPER, verified=False),
    "V2": Template("There is [CLS] in this computerized tomography.", PAPER, verified=False),
    "V3": Template("A computerized tomography of a [CLS].", PAPER, verified=True),
    "V4": Template(None, PAPER, verified=False),
    # the script that made the published embeddings leaves out the full stop
    "published": Template("A computerized tomography of a [CLS]", "the paper's published embeddings", verified=True),
    "words": Template("[CLS]", "the words of the class alone", verified=True),
}
"""Templates by name. The best of the paper is V3."""


def template_text(template: str) -> str:
    """Text of a template.

    Parameters
    ----------
    template
        A name out of `TEMPLATES`, or a text of one's own with one `[CLS]` in it.

    Raises
    ------
    SpecError
        If it is neither, or names a template whose wording is not known.
    """
    if template in TEMPLATES:
        text = TEMPLATES[template].text
        if text is None:
            raise SpecError(
                f"the wording of template {template} is not known here; take it from the paper "
                f"({TEMPLATES[template].source}) and pass the text itself, with {SLOT} for the class"
            )
        return text
    if template.count(SLOT) != 1:
        known = ", ".join(name for name, known in TEMPLATES.items() if known.text)
        raise SpecError(f"{template!r} is no template: give one of {known}, or a text with {SLOT} in it once")
    return template


def filled(template: str, words: Sequence[str]) -> tuple[str, ...]:
    """Set words into a template.

    Parameters
    ----------
    template
        A name out of `TEMPLATES`, or a text of one's own with one `[CLS]` in it.
    words
        Of each class.

    Raises
    ------
    SpecError
        If there is no such template, or a class has no words.
    """
    before, after = template_text(template).split(SLOT)
    for i, w in enumerate(words):
        if not w.strip():
            raise SpecError(f"class {i} has no words to set into the template {template!r}")
    return tuple(f"{before}{w}{after}" for w in words)


def class_prompts(taxonomy: Taxonomy, names: Sequence[str], template: str = "V3") -> tuple[str, ...]:
    """Prompts of classes, in the order of `names`.

    Parameters
    ----------
    taxonomy
        Has the words of each class in its `prompt`.
    names
        Of classes of the taxonomy.
    template
        A name out of `TEMPLATES`, or a text of one's own with one `[CLS]` in it.

    Raises
    ------
    SpecError
        If a name is not a class, or there is no such template.
    """
    return filled(template, [taxonomy.classes[taxonomy.bit(name)].prompt for name in names])
