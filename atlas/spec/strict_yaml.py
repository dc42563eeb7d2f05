"""YAML as specifications need it: safe, without duplicate keys, aliases or YAML 1.1 surprises.

Case numbers such as 0014 stay strings (YAML 1.1 reads them as octal 12), `no` and `off` stay words, and an
error knows the line of the key that it is about.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import ValidationError

from atlas.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from importlib.resources.abc import Traversable

    from pydantic_core import ErrorDetails

    from atlas.spec.base import Spec

S = TypeVar("S", bound="Spec")

MAX_BYTES = 4 * 2**20
"""Refuse larger files: no specification comes near, and they may come from elsewhere."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the YAML 1.2 core scalars and without duplicate keys, aliases and tags."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.get_mark().line + 1
            raise SpecError(f"line {line}: aliases (*name) are not allowed; write it out")
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            line = event.start_mark.line + 1
            raise SpecError(f"line {line}: tags (!name) are not allowed; leave it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(f"line {line}: a key must be a word or a number, not a list or a mapping")
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                msg = f"line {line}: the key {key!r} was given before, on line {seen[key]}"
                raise SpecError(msg)
            seen[key] = line
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false|True|False", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|", "~n"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        [*_first, *([""] if _tag == "null" else [])],
    )


def parse(path: Traversable) -> tuple[Any, yaml.Node | None]:
    """Read a YAML file.

    Returns
    -------
    content : object
        Plain Python values.
    node : yaml.Node or None
        The same as a tree with line numbers, for `validated`.

    Raises
    ------
    SpecError
        Naming the file, and the line where there is one.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_BYTES:
            msg = f"larger than {MAX_BYTES} bytes"
            raise SpecError(msg)
        loader = _Loader(raw.decode("utf-8"))
        node = loader.get_single_node()
        return (loader.construct_document(node) if node else None), node
    except (ValueError, OSError, RecursionError) as error:  # ValueError: SpecError, bad UTF-8, endless numbers
        raise SpecError(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise SpecError(f"{path}: {where}{getattr(error, 'problem', None) or error}") from error


def validated(model: type[S], path: Traversable) -> S:
    """Read a YAML file into a model.

    Raises
    ------
    SpecError
        Naming the file, and line and path of every entry at fault.
    """
    content, node = parse(path)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = [
            f"  line {_line(node, fault['loc'])}, {'.'.join(map(str, fault['loc'])) or '-'}: {_wording(fault)}"
            for fault in error.errors()
        ]
        raise SpecError(f"{path}:\n" + "\n".join(faults)) from None


def _wording(fault: ErrorDetails) -> str:
    """What pydantic says, without its own jargon."""
    if fault["type"] == "extra_forbidden":
        return "unknown key"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message if fault["type"] in {"missing", "value_error"} else f"{message} (got {fault['input']!r:.80})"


def _line(node: yaml.Node | None, loc: Sequence[int | str]) -> int:
    """Line of the deepest part of `loc` that stands in the file."""
    line = node.start_mark.line + 1 if node else 1
    for step in loc:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(step)]
            if not found:
                continue  # a step that pydantic adds, such as the name of a union member
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line
