"""Vectors from the letters and words of a prompt: no download, no meaning.

Prompts that share words or parts of words lie near each other, and that is all there is to it: nothing was learned
from any text. The vectors are the same bits everywhere: features are counted in whole numbers, their directions come
from SHA-256, and IEEE square roots, a product and a division, all exactly rounded, make the length.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from atlas.errors import SpecError
from atlas.model.embeddings import MAX_WIDTH, ClassEmbeddings
from atlas.model.text import template_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VERSION = 2
"""Of the algorithm; any change of the bits needs a new one."""

# Bytes, not characters: what counts as a letter, and its lower case, must not depend on a version of Unicode.
_WORD = re.compile(rb"[a-z0-9\x80-\xff]+")
_SMALL = frozenset({b"a", b"an", b"and", b"in", b"of", b"the"})
_WEIGHT = {"word": 3, "pair": 2, "whole": 2, "letters": 1}
_LETTERS = 3
_MAX_BYTES = 4096
_BITS_PER_HASH = 256


def hashed_embeddings(
    names: Sequence[str], prompts: Sequence[str], dim: int = 512, seed: int = 0, *, template: str = "words"
) -> ClassEmbeddings:
    """Vectors from words, pairs of neighbouring words and letter triples.

    A feature is a word (weight 3), two words that follow each other (2), all words in order (2; without it, left rib 1
    minus right rib 1 would be left rib 2 minus right rib 2) or three letters of a word with its ends marked (1). Each
    has a direction of +1 and -1, its signs the bits of SHA-256 of the seed and the feature. A vector is the weighted
    sum over a prompt, scaled to the length sqrt(dim): a number is then about 1 in size, as the layer behind
    it expects (those of CLIP are about 0.4). Words are ASCII-lower-cased runs of letters and digits; a, an, and, in,
    of, the are left out. As the words of a template are the same for all classes and only move all vectors together,
    the words of the class alone are the better prompts.

    Parameters
    ----------
    names
        Of the classes.
    prompts
        One a class.
    dim
        Length of a vector.
    seed
        Another one gives other directions.
    template
        Of the prompts, to be remembered: a name out of `atlas.model.text.TEMPLATES`, or its text.

    Raises
    ------
    SpecError
        If a prompt has no words or is too long, or two prompts give the same vector.
    """
    if not 1 <= dim <= MAX_WIDTH:
        raise SpecError(f"width of embeddings {dim}: from 1 to {MAX_WIDTH}")
    rows = [_vector(prompt, dim, seed) for prompt in prompts]
    vectors = torch.from_numpy(np.array(rows, np.float32).reshape(len(rows), dim))
    model = f"hashed-words v{VERSION} dim {dim} seed {seed}"
    return ClassEmbeddings(tuple(names), vectors, "hashed", model, template_text(template), tuple(prompts))


def _vector(prompt: str, dim: int, seed: int) -> np.ndarray:
    """float32 (dim,) of length sqrt(dim)."""
    total = np.zeros(dim, np.int64)
    for (kind, feature), count in Counter(_features(prompt)).items():
        total += count * _WEIGHT[kind] * _direction(f"{VERSION}/{seed}/{kind}/".encode() + feature, dim)
    squared = int(np.dot(total, total))
    if not squared:
        raise SpecError(f"{dim} columns are too few for the prompt {prompt!r}: all its features cancel out")
    # math.sqrt of a whole number below 2^53 and the division are exactly rounded by IEEE 754
    return (total.astype(np.float64) * math.sqrt(dim) / math.sqrt(squared)).astype(np.float32)


def _features(prompt: str) -> Iterator[tuple[str, bytes]]:
    """Kind and bytes of each feature, with repeats."""
    text = prompt.encode()
    if len(text) > _MAX_BYTES:
        raise SpecError(f"a prompt of {len(text)} bytes, at most {_MAX_BYTES}: {prompt[:60]!r}...")
    words = [w for w in _WORD.findall(text.lower()) if w not in _SMALL]
    if not words:
        raise SpecError(f"the prompt {prompt!r} has no words")
    yield "whole", b" ".join(words)
    for word in words:
        yield "word", word
        ends = b"<" + word + b">"
        for i in range(len(ends) - _LETTERS + 1):
            yield "letters", ends[i : i + _LETTERS]
    for first, second in pairwise(words):
        yield "pair", first + b" " + second


def _direction(feature: bytes, dim: int) -> np.ndarray:
    """int64 (dim,) of +1 and -1."""
    blocks = -(-dim // _BITS_PER_HASH)
    digests = b"".join(hashlib.sha256(i.to_bytes(4, "little") + feature).digest() for i in range(blocks))
    bits = np.unpackbits(np.frombuffer(digests, np.uint8), count=dim)
    return 1 - 2 * bits.astype(np.int64)
