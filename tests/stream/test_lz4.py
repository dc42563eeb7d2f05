"""LZ4 blocks, against the encoder of numcodecs and a decoder that goes byte by byte."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import lz4 as encoder

from atlas.stream.lz4 import DAMAGED, SLACK, decode

MARK, GUARD = 0xA5, 256


def run(block, capacity, wanted):
    """What `decode` makes of a block: the bytes, or None. Nothing outside the output and its slack may change."""
    source = np.full(len(block) + SLACK, 0xEE, np.uint8)
    source[: len(block)] = np.frombuffer(block, np.uint8)
    before = source.copy()
    memory = np.full(GUARD + capacity + SLACK + GUARD, MARK, np.uint8)
    result = decode(source.ctypes.data, len(block), memory.ctypes.data + GUARD, capacity, wanted)
    assert (memory[:GUARD] == MARK).all()
    assert (memory[GUARD + capacity + SLACK :] == MARK).all()
    np.testing.assert_array_equal(source, before)
    if result == DAMAGED:
        return None
    assert wanted <= result <= capacity
    return memory[GUARD : GUARD + result].tobytes()


def plain(block, capacity):
    """What a block says after the format description, byte by byte; and whether it says it without a fault."""
    out, at = bytearray(), 0

    def length(nibble):
        nonlocal at
        total, byte = nibble, 255 if nibble == 15 else 0
        while byte == 255:
            byte = block[at]
            at += 1
            total += byte
        return total

    try:
        while True:
            token = block[at]
            at += 1
            literals = length(token >> 4)
            if at + literals > len(block) or len(out) + literals > capacity:
                return bytes(out), False
            out += block[at : at + literals]
            at += literals
            if at == len(block):
                return bytes(out), True
            offset = block[at] | block[at + 1] << 8
            at += 2
            match = length(token & 15) + 4
            if not 0 < offset <= len(out) or len(out) + match > capacity:
                return bytes(out), False
            for _ in range(match):
                out.append(out[-offset])
    except IndexError:
        return bytes(out), False


def check(block, capacity, wanted):
    """A sound block gives what was wanted, any other a part of what it says or nothing."""
    result, (said, sound) = run(block, capacity, wanted), plain(block, capacity)
    assert result is None or said.startswith(result)
    assert result is not None or not sound or len(said) < wanted


def number(n):
    """Nibble, and the bytes that follow it."""
    return (n, b"") if n < 15 else (15, b"\xff" * ((n - 15) // 255) + bytes([(n - 15) % 255]))


def sequence(literals, offset=None, match=4):
    """A sequence of a block; the last has no offset."""
    high, more = number(len(literals))
    low, extra = (0, b"") if offset is None else number(match - 4)
    tail = b"" if offset is None else offset.to_bytes(2, "little") + extra
    return bytes([high << 4 | low]) + more + literals + tail


LENGTHS = st.one_of(
    st.integers(0, 80),
    st.builds(lambda n, d: max(15 + 255 * n + d, 0), st.integers(0, 4), st.integers(-2, 2)),
)
CONTENT = st.one_of(
    st.binary(max_size=3000),
    st.builds(lambda piece, n: piece * n, st.binary(min_size=1, max_size=70), st.integers(1, 100)),
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 60)).map(lambda pair: pair[0] * pair[1]),
        max_size=9,
    ).map(b"".join),
)


@given(content=CONTENT, data=st.data())
def test_what_the_encoder_wrote_comes_back(content, data):
    block = encoder.compress(content)[4:]  # numcodecs puts the length first
    assert run(block, len(content), len(content)) == content
    wanted = data.draw(st.integers(0, len(content)))
    assert content.startswith(run(block, len(content), wanted))


def test_every_prefix_is_right():
    rng = np.random.default_rng(0)
    content = rng.bytes(40) + b"abc" * 30 + rng.bytes(300) + bytes(600) + rng.bytes(20) * 3
    block = encoder.compress(content)[4:]
    results = [run(block, len(content), wanted) for wanted in range(len(content) + 1)]
    assert all(content.startswith(result) for result in results)
    assert len(results[1]) < len(content) / 2  # and no more is decoded than that


@pytest.mark.parametrize("kind", ["noise", "zeros", "text"])
def test_long_blocks(kind):
    rng = np.random.default_rng(1)
    content = {"noise": rng.bytes(300_000), "zeros": bytes(300_000), "text": b"liver, spleen; " * 20_000}[kind]
    block = encoder.compress(content)[4:]
    for wanted in (1, 299, 65_536, len(content)):
        assert content.startswith(run(block, len(content), wanted))


@pytest.mark.parametrize("offset", range(1, 41))
def test_matches_that_overlap_their_result(offset):
    literals = bytes(range(1, offset + 1))
    for match in (*range(4, 80), 255 + 18, 255 + 19, 255 + 20, 1000):
        content = (literals * (match // offset + 2))[: offset + match]
        block = sequence(literals, offset, match) + sequence(b"end")
        assert run(block, len(content) + 3, len(content) + 3) == content + b"end"
        assert run(block, len(content) + 3, offset + match) == content


@pytest.mark.parametrize("count", [0, 1, 14, 15, 16, 31, 32, 33, 64, 269, 270, 271, 524, 525, 526, 15 + 255 * 7])
def test_lengths_around_those_that_need_another_byte(count):
    rng = np.random.default_rng(count)
    literals = rng.bytes(count)
    assert run(sequence(literals), count, count) == literals
    start = rng.bytes(7)
    block = sequence(start, 7, count + 4) + sequence(literals)
    content = (start * (count + 9))[: 7 + count + 4] + literals
    assert run(block, len(content), len(content)) == content


@given(
    parts=st.lists(st.tuples(LENGTHS, st.integers(0, 70), LENGTHS), max_size=12),
    last=LENGTHS,
    spare=st.integers(-40, 40),
    data=st.data(),
)
@settings(max_examples=150)
def test_any_sequence_of_literals_and_matches(parts, last, spare, data):
    """Also those that no encoder writes: offsets that reach too far or nowhere, matches at the end, long results."""
    rng = np.random.default_rng(len(parts))
    block = b"".join(sequence(rng.bytes(count), offset, match + 4) for count, offset, match in parts)
    block += sequence(rng.bytes(last)) if data.draw(st.booleans()) else b""
    capacity = max(sum(count + match + 4 for count, _, match in parts) + last + spare, 0)
    wanted = data.draw(st.integers(max(capacity - 60, 0), capacity) | st.integers(0, capacity))
    cut = data.draw(st.just(len(block)) | st.integers(0, len(block)))
    check(block[:cut], capacity, wanted)


@given(block=st.binary(max_size=200), capacity=st.integers(0, 4000), data=st.data())
@settings(max_examples=200)
def test_noise(block, capacity, data):
    wanted = data.draw(st.integers(0, capacity))
    check(block, capacity, wanted)


def test_every_cut_and_every_changed_bit():
    rng = np.random.default_rng(2)
    content = rng.bytes(30) + b"abcde" * 12 + rng.bytes(20) + bytes(300) + rng.bytes(9)
    block = encoder.compress(content)[4:]
    for cut in range(len(block)):
        assert run(block[:cut], len(content), len(content)) is None
    for bit in range(8 * len(block)):
        changed = bytearray(block)
        changed[bit // 8] ^= 1 << bit % 8
        for capacity in (len(content), len(content) - 1):
            check(bytes(changed), capacity, capacity)


@pytest.mark.parametrize("more", [0, 1, 15, 40])
def test_lengths_of_many_bytes(more):
    """A length that is said in thousands of bytes, of which some may be missing."""
    said = b"\xff" * 20_000 + bytes([3])
    assert run(b"\xf0" + said + bytes(more), 1000, 1000) is None
    assert run(b"\x1fx\x01\x00" + said + bytes(more), 1000, 1000) is None
    assert run(b"\xf0" + b"\xff" * (more + 1), 1000, 1000) is None


def test_nothing_beyond_the_slack_is_touched():
    """In a process that ends if anything is."""
    script = Path(__file__).with_name("walled.py")
    done = subprocess.run(
        [sys.executable, script, "blocks", "0"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    refused, decoded = map(int, done.stdout.split())
    assert refused > 1000
    assert decoded > 1000
