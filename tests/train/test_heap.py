import ctypes
from types import SimpleNamespace

from atlas.train.heap import keep_freed_memory


def test_nothing_is_handed_back_to_the_system(monkeypatch):
    options = {}
    library = SimpleNamespace(mallopt=options.__setitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory()
    assert options == {-8: 1, -4: 0, -1: 2**31 - 1}  # M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    keep_freed_memory()
