"""Prompts, and vectors that need no download."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from atlas.errors import SpecError
from atlas.model.hashed import hashed_embeddings
from atlas.model.text import TEMPLATES, class_prompts, filled, template_text
from atlas.spec.library import load_taxonomy


@pytest.fixture(scope="module")
def everything():
    shipped = load_taxonomy()
    return hashed_embeddings(shipped.names, class_prompts(shipped, shipped.names, "words"))


def test_the_best_template_of_the_paper_with_the_words_of_the_taxonomy():
    prompts = class_prompts(load_taxonomy(), ["kidney_left", "liver_tumor"])
    assert prompts == ("A computerized tomography of a left kidney.", "A computerized tomography of a liver tumor.")


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("V1", "A photo of a liver."),
        ("V2", "There is liver in this computerized tomography."),
        ("V3", "A computerized tomography of a liver."),
        ("published", "A computerized tomography of a liver"),
        ("words", "liver"),
        ("CT {0} %s of the [CLS]!", "CT {0} %s of the liver!"),
    ],
)
def test_templates(template, prompt):
    assert filled(template, ["liver"]) == (prompt,)


def test_words_are_set_in_once_and_as_they_are():
    assert filled("a [CLS]", ["[CLS] {x}"]) == ("a [CLS] {x}",)


def test_wordings_that_were_not_read_at_their_source_are_marked():
    assert {name for name, t in TEMPLATES.items() if not t.verified} == {"V1", "V2", "V4"}


def test_the_template_whose_wording_is_not_known_says_what_to_do():
    with pytest.raises(SpecError, match=r"V4 is not known.*arXiv 2405.18356.*pass the text itself"):
        template_text("V4")


@pytest.mark.parametrize("template", ["V5", "", "a liver", "[CLS] and [CLS]"])
def test_no_template(template):
    with pytest.raises(SpecError, match="is no template: give one of V1, V2, V3, published, words"):
        filled(template, ["liver"])


def test_no_words():
    with pytest.raises(SpecError, match="class 1 has no words"):
        filled("V3", ["liver", " "])


def test_no_class():
    with pytest.raises(SpecError, match="did you mean liver"):
        class_prompts(load_taxonomy(), ["livre"])


# --------------------------------------------------------------------------------------------------- hashed vectors


def plain(prompt, dim, seed):
    """The same vector from the description, one feature and one bit after the other, in Python's numbers."""
    words, word = [], ""
    for character in prompt + " ":
        if character.isascii() and not character.isalnum():
            words += [word] if word and word not in ("a", "an", "and", "in", "of", "the") else []
            word = ""
        else:
            word += character.lower() if character.isascii() else character
    features = [(2, "whole/" + " ".join(words))]
    for i, w in enumerate(words):
        features.append((3, f"word/{w}"))
        marked = f"<{w}>".encode()
        features += [(1, b"letters/" + marked[j : j + 3]) for j in range(len(marked) - 2)]
        if i:
            features.append((2, f"pair/{words[i - 1]} {w}"))
    total = [0] * dim
    for weight, feature in features:
        name = f"2/{seed}/".encode() + (feature if isinstance(feature, bytes) else feature.encode())
        for column in range(dim):
            block, place = divmod(column, 256)
            byte = hashlib.sha256(block.to_bytes(4, "little") + name).digest()[place // 8]
            total[column] += -weight if byte >> (7 - place % 8) & 1 else weight
    length = math.sqrt(sum(t * t for t in total))
    return np.array([t * math.sqrt(dim) / length for t in total], np.float32)


@pytest.mark.parametrize(
    ("prompt", "dim", "seed"),
    [("head of the left femur", 512, 0), ("Vertebra L-1", 300, 7), ("foie élevé", 7, 1), ("rib rib", 64, 0)],
)
def test_compared_with_the_description(prompt, dim, seed):
    row = hashed_embeddings(["x"], [prompt], dim, seed).vectors[0].numpy()
    assert row.tobytes() == plain(prompt, dim, seed).tobytes()


GOLDEN_ROW = [
    "-0x1.030dc40000000p+0",
    "0x1.43d1360000000p+0",
    "0x1.8494a80000000p-1",
    "0x1.43d1360000000p+0",
    "-0x1.8494a80000000p-1",
    "-0x1.8494a80000000p-1",
    "0x1.030dc40000000p+0",
    "0x1.030dc40000000p+0",
]
GOLDEN_32 = "e49e6e62f6468c83d2f1a7fbb558efee89b42f481d696f4d2497996d9aa6d07f"


def test_golden_values(everything):
    """These numbers may change only together with the version of the algorithm."""
    row = hashed_embeddings(("a",), ("left kidney",), dim=8, seed=3).vectors[0]
    assert [float(v).hex() for v in row] == GOLDEN_ROW
    first = everything.select(load_taxonomy().names[:32])
    assert hashlib.sha256(first.vectors.numpy().tobytes()).hexdigest() == GOLDEN_32
    assert first.model == "hashed-words v2 dim 512 seed 0"


def test_another_process_with_another_hash_seed_gives_the_same_bits(everything):
    code = (
        "import hashlib; from atlas.model.hashed import hashed_embeddings as h;"
        "print(hashlib.sha256(h(['a', 'b'], ['left kidney', 'aorta']).vectors.numpy().tobytes()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "77"}, check=True, capture_output=True, text=True
    )
    here = everything.select(["kidney_left", "aorta"]).vectors.numpy().tobytes()
    assert run.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_nobody_takes_it_for_a_text_encoder(everything):
    assert everything.kind == "hashed"
    assert "hashed" in everything.model
    assert everything.template == "[CLS]"


def test_all_classes_of_the_taxonomy_have_vectors_of_one_length_that_span_as_many_dimensions(everything):
    rows = everything.vectors
    assert rows.dtype == torch.float32
    assert torch.allclose(rows.norm(dim=1), torch.full((len(rows),), math.sqrt(512)), rtol=1e-6)
    assert torch.linalg.matrix_rank(rows) == len(rows)
    others = rows @ rows.T / 512 - torch.eye(len(rows))
    assert others.max() < 0.9


def test_related_prompts_are_near(everything):
    def cosine(a, b):
        one, two = everything.select([a, b]).vectors
        return float(one @ two) / 512

    assert cosine("liver", "liver_tumor") > 0.4
    assert cosine("kidney_left", "kidney_right") > 0.25
    assert abs(cosine("liver", "spleen")) < 0.2
    assert abs(cosine("liver_tumor", "aorta")) < 0.2


def test_order_of_words_case_and_seed():
    def row(prompt, seed=0):
        return hashed_embeddings(["x"], [prompt], seed=seed).vectors[0]

    assert torch.equal(row("Left kidney."), row("the LEFT  kidney"))
    assert not torch.equal(row("left kidney"), row("kidney left"))
    assert not torch.equal(row("left kidney"), row("left kidney", seed=1))


@pytest.mark.parametrize(
    ("prompts", "dim", "message"),
    [
        (["liver", "of the"], 64, "'of the' has no words"),
        (["liver", "Liver!"], 64, "a and b have the same vector"),
        (["liver", "x" * 5000], 64, "5000 bytes"),
        (["liver"], 64, "1 prompts for 2 classes"),
        (["liver", "spleen"], 0, "from 1 to 16384"),
        (["liver", "spleen"], 20_000, "from 1 to 16384"),
    ],
)
def test_prompts_that_give_no_vectors(prompts, dim, message):
    with pytest.raises(SpecError, match=message):
        hashed_embeddings(["a", "b"], prompts, dim)
