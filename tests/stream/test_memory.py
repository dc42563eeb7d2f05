"""Memory goes back when nobody holds it, and not before."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from atlas.stream.memory import HostMemory

SHAPE = (2, 3, 4, 5)
INT16 = np.dtype(np.int16)


@pytest.fixture
def memory():
    return HostMemory(pinned=False)


def again(memory, place, shape=SHAPE, dtype=INT16):
    """Whether that memory is lent next; none but this size is asked for."""
    lent = [memory.lend(shape, dtype) for _ in range(3)]
    return place in [tensor.data_ptr() for tensor in lent]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("int16", torch.int16), ("uint8", torch.uint8), ("uint16", torch.uint16), ("float32", torch.float32)],
)
def test_what_is_lent(memory, dtype, expected):
    tensor = memory.lend(SHAPE, np.dtype(dtype))
    assert tensor.shape == SHAPE
    assert tensor.dtype == expected
    assert tensor.is_contiguous()
    tensor.numpy()[...] = 7
    assert (tensor.numpy() == 7).all()


def test_what_nobody_holds_is_lent_again(memory):
    tensor = memory.lend(SHAPE, INT16)
    place = tensor.data_ptr()
    del tensor
    assert again(memory, place)


def test_it_may_come_back_in_another_shape_and_type(memory):
    tensor = memory.lend((4, 8), INT16)
    place = tensor.data_ptr()
    del tensor
    lent = memory.lend((64,), np.dtype(np.uint8))
    assert lent.data_ptr() == place
    assert lent.shape == (64,)


def test_other_sizes_have_other_memory(memory):
    place = memory.lend((64,), INT16).data_ptr()
    small = memory.lend((32,), INT16)
    assert memory.lend((64,), INT16).data_ptr() == place
    assert small.data_ptr() != place


VIEWS = {
    "the tensor": lambda t: t,
    "a slice": lambda t: t[1:],
    "one element": lambda t: t[0, 0, 0, 0],
    "a step": lambda t: t[:, ::2],
    "reshaped": lambda t: t.reshape(-1),
    "a transposed view": lambda t: t.permute(3, 2, 1, 0),
    "another type": lambda t: t.view(torch.uint8),
    "detached": lambda t: t.detach(),
    "its storage": lambda t: t.untyped_storage(),
    "a NumPy view": lambda t: t.numpy(),
    "a slice of a NumPy view": lambda t: t.numpy()[1:, :, ::2],
    "a reshaped NumPy view": lambda t: t.numpy().reshape(-1)[3:].view(np.uint8),
    "through DLPack": np.from_dlpack,
    "a tensor of a NumPy view": lambda t: torch.from_numpy(t.numpy()[0]),
    "a memory view": lambda t: memoryview(t.numpy()),
    "split": lambda t: t.unbind(0)[1],
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_keeps_the_memory(memory, view):
    tensor = memory.lend(SHAPE, INT16)
    place = tensor.data_ptr()
    kept = VIEWS[view](tensor)
    del tensor
    assert not again(memory, place)
    del kept
    assert again(memory, place)


def test_a_copy_does_not(memory):
    tensor = memory.lend(SHAPE, INT16)
    place = tensor.data_ptr()
    copies = [tensor.clone(), tensor.numpy().copy(), tensor.float(), pickle.loads(pickle.dumps(tensor.numpy()))]
    del tensor
    assert again(memory, place)
    assert len(copies) == 4


def test_the_memory_outlives_its_lender(memory):
    tensor = memory.lend((1000,), INT16)
    tensor.fill_(5)
    del memory
    assert (tensor == 5).all()


def test_as_much_is_kept_as_was_out_at_once(memory):
    places = set()
    for _ in range(20):
        lent = [memory.lend(SHAPE, INT16) for _ in range(3)]
        places |= {tensor.data_ptr() for tensor in lent}
        del lent
    assert len(places) == 3


def test_nothing_at_all(memory):
    assert memory.lend((0, 3), INT16).shape == (0, 3)


def test_threads_never_share_memory(memory):
    def use(number):
        kept = []
        for step in range(200):
            tensor = memory.lend((64,), INT16)
            tensor.fill_(number * 1000 + step)
            kept.append((tensor[5:], number * 1000 + step))
            if len(kept) > step % 4:
                view, value = kept.pop(0)
                assert (view == value).all()
                del view
            del tensor
        return all((view == value).all() for view, value in kept)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pinned_memory():
    memory = HostMemory(pinned=True)
    tensor = memory.lend(SHAPE, INT16)
    assert tensor.is_pinned()
    place = tensor.data_ptr()
    part = tensor[1:]
    del tensor
    assert not again(memory, place)
    del part
    assert again(memory, place)
