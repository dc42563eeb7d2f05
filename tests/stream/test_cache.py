"""Which things are kept, against lists written out; and threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.stream.cache import Cache


class Maker:
    """Makes things, and counts how often."""

    def __init__(self, size=1):
        self.made, self.size = [], size

    def __call__(self, cache, key, size=None):
        def make():
            self.made.append(key)
            return f"{key}!", self.size if size is None else size

        return cache.get(key, make)


def test_what_is_kept_is_not_made_again():
    cache, maker = Cache(10), Maker()
    assert [maker(cache, key) for key in "abab"] == ["a!", "b!", "a!", "b!"]
    assert maker.made == ["a", "b"]
    assert len(cache) == 2


def test_what_was_used_longest_ago_goes_first():
    cache, maker = Cache(3), Maker()
    for key in "abcad":  # b is the oldest when d comes
        maker(cache, key)
    for key in "acd":
        maker(cache, key)
    assert maker.made == ["a", "b", "c", "d"]
    maker(cache, "b")
    assert maker.made[-1] == "b"


def test_several_go_where_a_large_one_comes():
    cache, maker = Cache(10), Maker(3)
    for key in "abc":
        maker(cache, key)
    maker(cache, "d", 5)
    assert len(cache) == 2  # 3 and 5
    maker(cache, "c")
    assert maker.made == ["a", "b", "c", "d"]


def test_the_newest_is_kept_however_large():
    cache, maker = Cache(10), Maker(1000)
    for key in "aaba":
        maker(cache, key)
    assert maker.made == ["a", "b", "a"]
    assert len(cache) == 1


def test_what_is_forgotten_is_made_again():
    cache, maker = Cache(3), Maker()
    maker(cache, "a")
    cache.forget("a")
    cache.forget("a")
    cache.forget("never there")
    assert len(cache) == 0
    for key in "abc":
        maker(cache, key)
    assert maker.made == ["a", "a", "b", "c"]
    assert len(cache) == 3  # forgetting gave its bytes back


def test_an_error_keeps_nothing():
    cache = Cache(3)

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.get("a", fail)
    assert len(cache) == 0
    assert cache.get("a", lambda: (1, 1)) == 1


def test_what_is_false_is_kept_too():
    cache = Cache(3)
    assert cache.get("a", lambda: (None, 1)) is None
    assert cache.get("a", lambda: ("other", 1)) is None


@given(
    limit=st.integers(1, 12),
    steps=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 6), st.booleans()), max_size=60),
)
def test_against_a_list(limit, steps):
    """The list holds (key, bytes), the latest last."""
    cache, expected = Cache(limit), []
    for key, size, forget in steps:
        if forget:
            cache.forget(key)
            expected = [pair for pair in expected if pair[0] != key]
            continue
        made = []
        cache.get(key, lambda made=made, size=size: (made.append(1), size))
        known = [pair for pair in expected if pair[0] == key]
        assert bool(made) == (not known)
        expected = [pair for pair in expected if pair[0] != key] + (known or [(key, size)])
        while sum(n for _, n in expected) > limit and len(expected) > 1:
            expected.pop(0)
        assert len(cache) == len(expected)


def test_making_one_thing_does_not_hold_up_another():
    cache, started, go = Cache(10), threading.Event(), threading.Event()

    def slow():
        started.set()
        assert go.wait(60)
        return "slow", 1

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(cache.get, "a", slow)
        assert started.wait(60)
        assert cache.get("b", lambda: ("quick", 1)) == "quick"
        assert cache.get("a", lambda: ("quicker", 1)) == "quicker"  # two threads may make the same
        go.set()
        assert future.result() == "slow"
    assert len(cache) == 2


def test_many_threads():
    cache = Cache(20)

    def use(number):
        for step in range(400):
            key = str((number * 7 + step) % 13)
            assert cache.get(key, lambda key=key: (key, int(key))) == key
            if step % 11 == 0:
                cache.forget(key)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))
    # the bytes still add up: with 20 of them, and none used up, exactly these fit
    for key in range(13):
        cache.forget(str(key))
    assert len(cache) == 0
    for key in ("9", "8", "3"):
        cache.get(key, lambda key=key: (key, int(key)))
    assert len(cache) == 3
    cache.get("1", lambda: ("1", 1))
    assert len(cache) == 3
