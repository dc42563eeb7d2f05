"""LZ4 blocks, decoded no further than needed."""

from __future__ import annotations

from atlas.stream.native import WIDE, compiled, copy8, copy_byte, copy_wide, load8, load16, repeat

DAMAGED = -1
"""Result where the input is no LZ4 block."""

SLACK = 64
"""Bytes that may be read past the end of the input, and written past that of the output: copies are wide."""

MORE, SHORTEST, HALF = 255, 4, 15


@compiled
def decode(source: int, length: int, target: int, capacity: int, wanted: int) -> int:  # noqa: C901, PLR0911, PLR0912, PLR0915
    """Decode a block until at least `wanted` bytes are there.

    A block is a list of (literal bytes, match: offset back and length), see the LZ4 block format description.
    Its lengths and offsets are not trusted.

    Parameters
    ----------
    source, length
        Address and bytes of the block; `SLACK` more bytes can be read.
    target, capacity
        Address and bytes of the output; `SLACK` more bytes can be written.
    wanted
        At most `capacity`.

    Returns
    -------
    int
        Bytes decoded, at least `wanted`; or `DAMAGED`.
    """
    at, end = source, source + length
    out: int = target
    limit, enough = target + capacity, target + wanted
    while at < end:
        token = load8(at)
        at += 1
        count = token >> 4
        if count == HALF:
            more = MORE
            while more == MORE:
                if at >= end:
                    return DAMAGED
                more = load8(at)
                at += 1
                count += more
        if count > end - at or count > limit - out:
            return DAMAGED
        if count:  # most are short, and one move does
            copy_wide(out, at)
        done = WIDE
        while done < count:
            copy_wide(out + done, at + done)
            done += WIDE
        at += count
        out += count
        if at == end:
            return int(out - target) if out >= enough else DAMAGED
        if end - at < 2:  # noqa: PLR2004
            return DAMAGED
        offset = load16(at)
        at += 2
        count = token & HALF
        if count == HALF:
            more = MORE
            while more == MORE:
                if at >= end:
                    return DAMAGED
                more = load8(at)
                at += 1
                count += more
        count += SHORTEST
        if offset == 0 or offset > out - target or count > limit - out:
            return DAMAGED
        match = out - offset
        done = 0
        if offset >= WIDE:
            copy_wide(out, match)
            done = WIDE
            while done < count:
                copy_wide(out + done, match + done)
                done += WIDE
        elif offset == 1:
            repeat(out, load8(match), count)
        else:
            # the match overlaps its own result: where it is shorter than a word, byte by byte until a word lies behind
            behind = offset
            while behind < 8:  # noqa: PLR2004
                behind += offset
            head = min(count, behind - offset)
            while done < head:
                copy_byte(out + done, match + done)
                done += 1
            while done < count:
                copy8(out + done, out + done - behind)
                done += 8
        out += count
        if out >= enough:
            return int(out - target)
    return DAMAGED
