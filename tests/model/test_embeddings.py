"""Vectors of classes: selection, extension, baselines, text encoders."""

import sys
from types import ModuleType

import pytest
import torch

from atlas.errors import AtlasError, SpecError
from atlas.model.class_vectors import ClassVectors, FixedVectors, LearnedVectors
from atlas.model.embedding_files import load_embeddings
from atlas.model.embeddings import ClassEmbeddings, one_hot_embeddings
from atlas.model.encoders import ENCODERS, encoded_embeddings
from atlas.model.hashed import hashed_embeddings


def made(names="abc", **changed):
    vectors = torch.arange(len(names) * 4, dtype=torch.float32).reshape(-1, 4)
    fields = {
        "names": tuple(names),
        "vectors": vectors,
        "kind": "encoder",
        "model": "m",
        "template": "a [CLS]",
        "prompts": tuple(f"a {n}" for n in names),
    }
    return ClassEmbeddings(**(fields | changed))


def test_selection_in_the_order_asked_for():
    picked = made().select(["c", "a"])
    assert (picked.names, picked.prompts) == (("c", "a"), ("a c", "a a"))
    assert picked.vectors.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert (picked.kind, picked.model, picked.template, picked.width) == ("encoder", "m", "a [CLS]", 4)


@pytest.mark.parametrize(
    ("names", "message"), [(["a", "x", "y"], "no embedding of x, y; there are: a, b, c"), (["a", "a"], "named twice")]
)
def test_selection_of_what_is_not_there(names, message):
    with pytest.raises(SpecError, match=message):
        made().select(names)


def test_extension_keeps_rows_and_adds_new_ones():
    first, new = made(), made("de", vectors=torch.rand(2, 4))
    longer = first.extended(new)
    assert longer.names == tuple("abcde")
    assert torch.equal(longer.vectors, torch.cat([first.vectors, new.vectors]))
    assert longer.prompts == ("a a", "a b", "a c", "a d", "a e")
    assert torch.equal(longer.select(["a", "b", "c"]).vectors, first.vectors)
    assert longer.select(["a", "b", "c"]).digest == first.digest


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "other"}, "embeddings of other"),
        ({"template": "the [CLS]"}, "cannot extend"),
        ({"kind": "file"}, "cannot extend"),
        ({"vectors": torch.rand(2, 5)}, "5 wide"),
    ],
)
def test_extension_by_vectors_of_another_space(changed, message):
    with pytest.raises(SpecError, match=message):
        made().extended(made("de", **({"vectors": torch.rand(2, 4)} | changed)))


def test_extension_by_a_class_that_is_there():
    with pytest.raises(SpecError, match="already there: c"):
        made().extended(made("cd", vectors=torch.rand(2, 4)))


@pytest.mark.parametrize("dim", [64, 512])
def test_numbers_of_hashed_vectors_are_about_1_in_size(dim):
    vectors = hashed_embeddings(["a", "b"], ["left kidney", "tumour of the liver"], dim).vectors
    torch.testing.assert_close(vectors.square().mean(1), torch.ones(2))


def test_hashed_vectors_extend_to_what_one_call_gives():
    names, prompts = ["a", "b", "c"], ["liver", "spleen", "left kidney"]
    longer = hashed_embeddings(names[:2], prompts[:2]).extended(hashed_embeddings(names[2:], prompts[2:]))
    assert torch.equal(longer.vectors, hashed_embeddings(names, prompts).vectors)
    with pytest.raises(SpecError, match="cannot extend"):
        longer.extended(hashed_embeddings(["d"], ["aorta"], seed=1))


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "n"},
        {"template": "the [CLS]"},
        {"names": ("a", "c", "b")},
        {"prompts": ("a a", "a b", "a  c")},
    ],
)
def test_the_digest_says_what_made_the_vectors(changed):
    assert made().digest == made(vectors=torch.rand(3, 4)).digest
    assert made(**changed).digest != made().digest


def row(value, at=(1, 2)):
    vectors = torch.rand(3, 4)
    vectors[at] = value
    return vectors


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vectors": row(float("nan"))}, "not finite in the rows of b$"),
        ({"vectors": row(float("-inf"), (2, 0))}, "not finite in the rows of c$"),
        ({"vectors": torch.ones(3, 4)}, "a and b have the same vector"),
        ({"vectors": torch.rand(2, 4)}, "2 rows for 3 classes"),
        ({"vectors": torch.rand(12)}, r"not of shape \(12,\)"),
        ({"vectors": torch.rand(3, 0)}, "out of bounds"),
        ({"vectors": torch.rand(1).expand(10**6, 10**6)}, "out of bounds"),
        ({"prompts": ("a",)}, "1 prompts for 3 classes"),
        ({"names": ("a", "b", "a")}, "named twice: a"),
        ({"names": ("a", "b", "")}, "a name for each"),
        ({"names": (), "prompts": (), "vectors": torch.rand(0, 4)}, "at least one class"),
    ],
)
def test_tables_that_are_none(changed, message):
    with pytest.raises(SpecError, match=message):
        made(**changed)


def test_vectors_are_a_copy_of_their_own():
    source = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    kept = made(vectors=source)
    assert kept.vectors.dtype == torch.float32
    assert not kept.vectors.requires_grad
    mine = torch.rand(3, 4)
    kept, before = made(vectors=mine), mine.clone()
    mine.zero_()
    assert torch.equal(kept.vectors, before)


# -------------------------------------------------------------------------------------------------------- baselines


def test_one_hot():
    assert torch.equal(one_hot_embeddings("abc").vectors, torch.eye(3))
    roomy = one_hot_embeddings("abc", width=5)
    longer = roomy.extended(one_hot_embeddings("de", width=5, first=3))
    assert torch.equal(longer.vectors, torch.eye(5))
    assert longer.kind == "one-hot"
    with pytest.raises(SpecError, match="2 classes from column 3 on do not fit 4 columns"):
        one_hot_embeddings("de", width=4, first=3)
    with pytest.raises(SpecError, match="cannot extend"):
        one_hot_embeddings("abc").extended(one_hot_embeddings("de", first=3))


@pytest.mark.parametrize(
    "vectors", [FixedVectors(made()), LearnedVectors("abc", 4), FixedVectors(one_hot_embeddings("abc"))]
)
def test_all_kinds_have_one_interface(vectors):
    assert isinstance(vectors, ClassVectors)
    table = vectors()
    assert table.shape == (3, vectors.width)
    assert vectors.names == ("a", "b", "c")
    rows = vectors.rows(["c", "a"])
    assert torch.equal(vectors(rows), table[[2, 0]])
    with pytest.raises(SpecError, match="no vector of x; there are: a, b, c"):
        vectors.rows(["x"])
    other = type(vectors)(vectors.embeddings) if isinstance(vectors, FixedVectors) else LearnedVectors("abc", 4, seed=9)
    other.load_state_dict(vectors.state_dict())
    assert torch.equal(other(), table)


def test_fixed_vectors_are_not_trained():
    fixed = FixedVectors(made())
    assert list(fixed.parameters()) == []
    assert torch.equal(fixed.extended(made("d", vectors=torch.ones(1, 4)))(), torch.cat([fixed(), torch.ones(1, 4)]))
    before = fixed.embeddings.vectors.clone()
    fixed.vectors.zero_()
    assert torch.equal(fixed.embeddings.vectors, before)


def test_learned_vectors_are_trained_where_they_are_used():
    learned = LearnedVectors("abc", 4)
    learned(torch.tensor([2])).sum().backward()
    assert learned.vectors.grad.tolist() == [[0] * 4, [0] * 4, [1] * 4]


def test_learned_vectors_start_from_their_seed_alone():
    state = torch.get_rng_state()
    first = LearnedVectors("abc", 256)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(), LearnedVectors("abc", 256)())
    assert not torch.equal(first(), LearnedVectors("abc", 256, seed=1)())
    assert abs(float(first().detach().std()) - 1) < 0.1


def test_learned_vectors_keep_what_they_learned_when_extended():
    learned = LearnedVectors("abc", 4)
    with torch.no_grad():
        learned.vectors.fill_(5)
    longer = learned.extended(["d"])
    assert longer.names == ("a", "b", "c", "d")
    assert torch.equal(longer()[:3], learned())
    assert longer.vectors.requires_grad
    assert longer()[3].std() > 0
    with pytest.raises(SpecError, match="named twice: c"):
        learned.extended(["c"])


# ---------------------------------------------------------------------------------------------------- text encoders


class StandIn(ModuleType):
    """Of open_clip: remembers what was asked for; a text's vector is its letters."""

    def __init__(self):
        super().__init__("open_clip")
        self.calls = []

    def create_model_from_pretrained(self, name, pretrained=None, **options):
        self.calls.append((name, pretrained, options))
        return Network()

    def get_tokenizer(self, name):
        self.calls.append(name)

        def tokenize(texts):
            return torch.tensor([[ord(c) for c in text.ljust(77)[:77]] for text in texts])

        return tokenize


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def encode_text(self, tokens):
        assert not self.training
        return (self.scale * tokens).half()


@pytest.fixture
def open_clip(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "open_clip", stand_in)
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    return stand_in


def test_an_encoder_reads_filled_templates(open_clip):
    found = encoded_embeddings(["liver", "kidney_left"], ["liver", "left kidney"])
    assert found.prompts == ("A computerized tomography of a liver.", "A computerized tomography of a left kidney.")
    assert found.vectors[0, :4].tolist() == [2 * ord(c) for c in "A co"]
    assert found.vectors.dtype == torch.float32
    assert (found.kind, found.model) == ("encoder", "open_clip ViT-B-32-quickgelu openai")
    # not the plain ViT-B-32: its activation is another one
    name, weights, options = open_clip.calls[0]
    assert (name, weights, open_clip.calls[1]) == ("ViT-B-32-quickgelu", "openai", name)
    assert options == {"precision": "fp32", "device": "cpu", "return_transform": False}
    FixedVectors(found)()[0] @ torch.rand(77, requires_grad=True)  # no tensor of inference mode


def test_biomedclip_is_asked_for_by_its_name_on_the_hub(open_clip):
    found = encoded_embeddings(["liver"], ["liver"], "biomedclip", "words")
    assert open_clip.calls[0][:2] == ("hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", None)
    assert found.template == "[CLS]"


def test_what_was_made_once_is_read_from_the_cache(open_clip, tmp_path):
    folder = tmp_path / "new" / "cache"
    first = encoded_embeddings(["liver"], ["liver"], cache=folder)
    asked = len(open_clip.calls)
    again = encoded_embeddings(["liver"], ["liver"], cache=folder)
    assert len(open_clip.calls) == asked
    assert torch.equal(first.vectors, again.vectors)
    assert again.digest == first.digest
    for other in ({"template": "V1"}, {"encoder": "biomedclip"}, {"words": ["the liver"]}, {"names": ["spleen"]}):
        asked = len(open_clip.calls)
        encoded_embeddings(**({"names": ["liver"], "words": ["liver"], "cache": folder} | other))
        assert len(open_clip.calls) > asked
    assert len(list(folder.iterdir())) == 5


def test_a_file_of_the_cache_under_a_wrong_name(open_clip, tmp_path):
    encoded_embeddings(["liver"], ["liver"], cache=tmp_path)
    (first,) = tmp_path.iterdir()
    encoded_embeddings(["liver"], ["spleen"], cache=tmp_path)
    (second,) = set(tmp_path.iterdir()) - {first}
    second.replace(first)
    with pytest.raises(SpecError, match=f"{first.name}: made by open_clip.*delete it"):
        encoded_embeddings(["liver"], ["liver"], cache=tmp_path)
    assert load_embeddings(first).prompts[0].endswith("spleen.")


@pytest.mark.parametrize(("encoder", "missing"), [("clip", "open_clip"), ("biomedclip", "transformers")])
def test_a_missing_package_gives_the_command(open_clip, monkeypatch, encoder, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(AtlasError) as caught:
        encoded_embeddings(["liver"], ["liver"], encoder)
    assert str(caught.value) == f"{ENCODERS[encoder].model} needs {missing}: pip install 'atlas-corpus[text]'"


def test_weights_that_cannot_be_had(open_clip, monkeypatch, tmp_path):
    def refuse(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", refuse)
    with pytest.raises(AtlasError, match=r"ViT-B-32-quickgelu openai cannot be loaded \(no route to host\)"):
        encoded_embeddings(["liver"], ["liver"], cache=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_an_encoder_that_is_not_known():
    with pytest.raises(SpecError, match="no text encoder 'CLIP'; there are: clip, biomedclip"):
        encoded_embeddings(["liver"], ["liver"], "CLIP")
