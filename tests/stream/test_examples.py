"""The examples of docs/stream.md, run on the small corpus of these tests."""

import re
from pathlib import Path

import pytest
import torch

import atlas

PAGE = Path(__file__).resolve().parents[2] / "docs" / "stream.md"
SMALLER = {
    "patch_size=96": "patch_size=32",
    '"patch_size": 96': '"patch_size": 32',
    "range(100_000)": "range(2)",
    "length=250": "length=4",
    "num_workers=8": "num_workers=0",  # workers have their own tests
    "max_steps=100_000": "max_steps=2, accelerator='cpu', logger=False, enable_checkpointing=False, "
    "enable_progress_bar=False, enable_model_summary=False",
}


def examples():
    """(heading, code) of each block of Python."""
    heading = None
    parts = re.split(r"^(#+ [^\n]*|```python\n.*?^```)$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    for part in parts:
        if part.startswith("#"):
            heading = part.lstrip("# ")
        elif part.startswith("```python"):
            yield heading, part.removeprefix("```python\n").removesuffix("```")


EXAMPLES = list(examples())


@pytest.fixture
def run(corpus, corpus_folder, tmp_path, monkeypatch):
    """Function that runs an example where corpus.zarr lies, and returns its names."""
    (tmp_path / "corpus.zarr").symlink_to(corpus_folder)
    monkeypatch.chdir(tmp_path)

    def execute(code):
        for text, smaller in SMALLER.items():
            code = code.replace(text, smaller)
        names = {"__name__": "example", "atlas": atlas, "torch": torch, "corpus": corpus}
        exec(compile(code, str(PAGE), "exec"), names)
        loader = names.get("loader")
        if isinstance(loader, atlas.stream.Stream):
            loader.close()
        return names

    return execute


@pytest.fixture
def example(run):
    """Function that runs the n-th example below a heading."""
    return lambda heading, number=0: run([code for title, code in EXAMPLES if title == heading][number])


def trained(names):
    """Whether the last step gave every weight a gradient, finite and not all zero."""
    gradients = [parameter.grad for parameter in names["network"].parameters()]
    return all(g is not None and g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)


def test_every_replacement_is_needed_and_every_section_is_run():
    text = "".join(code for _, code in EXAMPLES)
    assert all(there in text for there in SMALLER)
    titles = [title for title, _ in EXAMPLES]
    assert {title: titles.count(title) for title in titles} == RUN


RUN = {
    "Stream patches to a network": 2,
    "Which cases": 1,
    "Sampling": 1,
    "Packed batches": 1,
    "Augmentation": 2,
    "Determinism and resuming": 1,
    "DataLoader": 2,
    "MONAI": 1,
    "Lightning": 1,
    "TorchIO": 1,
    "Sliding windows": 1,
}


def test_the_corpus_is_opened(example):
    assert len(example("Stream patches to a network", 0)["corpus"]) == 8


def test_a_plain_loop(example):
    names = example("Stream patches to a network", 1)
    assert trained(names)
    assert names["step"] == 1
    assert names["batch"].mask.shape == (2, 32, 32, 32, 32)
    assert names["batch"].index.tolist() == [2, 3]


def test_filters(example):
    assert example("Which cases")["loader"].run.index.case_ids.tolist() == ["one/a", "one/b"]


def test_sampling(example):
    loader = example("Sampling")["loader"]
    assert next(loader).image.shape == (2, 1, 64, 96, 96)
    loader.close()


def test_packed(example):
    names = example("Packed batches")
    assert names["batch"].axes == "xyz"
    assert names["packed"].nbytes == 2 * 32**3 * (4 if names["packed"].codes.dtype == torch.uint16 else 3)


def test_augmentation(example, corpus):
    names = example("Augmentation", 0)
    with names["loader"] as loader, atlas.stream(corpus, batch_size=2, patch_size=32) as plain:
        pairs = [(next(loader), next(plain)) for _ in range(5)]
    assert all(a.case_id == b.case_id for a, b in pairs)
    assert not all(torch.equal(a.mask, b.mask) for a, b in pairs)


def test_replay(example):
    names = example("Augmentation", 1)
    assert torch.equal(names["batch"].mask, names["again"].mask)


def test_resuming(example):
    names = example("Determinism and resuming")
    assert set(names["state"]) == {"seed", "patch", "run"}
    assert names["item"]["index"] == 3


@pytest.mark.parametrize("number", [0, 1])
def test_data_loader(example, number):
    names = example("DataLoader", number)
    index = names["batch"].index if number else names["batch"]["index"]
    assert index.tolist() == ([2, 3] if number else [6, 7])


def test_monai(example):
    names = example("MONAI")
    assert trained(names)
    assert names["each"].shape == (2, 4)


# torch deprecates a check that Lightning's own copy of its tree functions makes
LIGHTNING = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")


@LIGHTNING
def test_lightning(example):
    assert example("Lightning")["Segmenter"].__mro__[1].__module__.startswith("pytorch_lightning")


@LIGHTNING
def test_lightning_goes_on_where_it_was(example):
    """What the page says of its checkpoints."""
    import pytorch_lightning as pl

    class Noting(example("Lightning")["Segmenter"]):
        def __init__(self):
            super().__init__()
            self.seen = []

        def training_step(self, batch, step):
            self.seen.append(batch.index.tolist())
            return super().training_step(batch, step)

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    expected = {3: [[8, 9], [10, 11]], None: [[10, 11], [12, 13]]}
    for limit, later in expected.items():
        trainer = pl.Trainer(max_steps=4, accelerator="cpu", limit_train_batches=limit, **quiet)
        trainer.fit(model := Noting())
        assert model.seen == [[0, 1], [2, 3], [4, 5], [6, 7]]
        trainer.save_checkpoint("state.ckpt")
        trainer = pl.Trainer(max_steps=6, accelerator="cpu", limit_train_batches=limit, **quiet)
        trainer.fit(model := Noting(), ckpt_path="state.ckpt")
        assert model.seen == later


def test_torchio(example):
    names = example("TorchIO")
    assert names["turned"].spatial_shape == (32, 32, 32)


def test_sliding_windows(example):
    names = example("Sliding windows")
    assert names["count"].min() >= 1
    assert names["mask"].shape == (2, *names["case"].ct.shape)
