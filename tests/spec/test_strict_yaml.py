import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.errors import SpecError
from atlas.spec.manifest import Manifest
from atlas.spec.recipe import Recipe
from atlas.spec.strict_yaml import MAX_BYTES, parse, validated
from atlas.spec.taxonomy import Taxonomy


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "spec.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def content(path):
    return parse(path)[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0014", "0014"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2021-04-01", "2021-04-01"),
        ("no", "no"),
        ("off", "off"),
        ("y", "y"),
        ("1e5", "1e5"),
        (".inf", ".inf"),
        ("NULL", "NULL"),
        ("14", 14),
        ("-3", -3),
        ("0", 0),
        ("1.5", 1.5),
        ("1.5e-3", 0.0015),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'28'", "28"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(file, text, value):
    found = content(file(f"key: {text}"))["key"]
    assert found == value
    assert type(found) is type(value)


def test_merge_keys_are_ordinary_keys(file):
    assert content(file("<<: {a: 1}")) == {"<<": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", r"line 3: the key 'a' was given before, on line 1"),
        ("top:\n  a: 1\n  a: 1\n", r"line 3: the key 'a'"),
        ("{a: 1, a: 2}", r"line 1: the key 'a'"),
        ("0014: 1\n14: 2\n0014: 3\n", r"line 3: the key '0014' was given before, on line 1"),
        ("a: &x 1\nb: *x\n", r"line 2: aliases"),
        ("a: &x [*x]\n", r"line 1: aliases"),
        ("a: 1\nb: !!int '2'\n", r"line 2: tags"),
        ("a: !!python/object/apply:os.system [ls]\n", r"line 1: tags"),
        ("a: 1\n? [b]\n: 2\n", r"line 2: a key must be a word or a number"),
        ("? {b: 1}\n: 2\n", r"line 1: a key must be"),
        ("a: [1, 2\nb: 3\n", r"line 2: "),
        ("a: 1\n--- \nb: 1\n", r"line 2: "),
        ("a: %\n", r"line 1: "),
        ("a:\n\t- 1\n", r"line 2: "),
    ],
)
def test_refused_with_file_and_line(file, text, says):
    path = file(text)
    with pytest.raises(SpecError, match=says) as error:
        parse(path)
    assert str(path) in str(error.value)


def test_equal_keys_at_different_places_are_fine(file):
    assert content(file("a: {x: 1}\nb: {x: 1}\n")) == {"a": {"x": 1}, "b": {"x": 1}}


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\x00",
        b"a: \x00",
        "[" * 5000,
        "{a: " * 5000,
        "a: " + "1" * 5000,
        "a: '" + "x" * MAX_BYTES + "'",
        b'a: "\\ud800',
    ],
)
def test_refused_without_a_line(file, text):
    path = file(text)
    with pytest.raises(SpecError) as error:
        parse(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 500


def test_missing_file(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.yaml"):
        parse(tmp_path / "nowhere.yaml")


def test_empty_file_lacks_everything(file):
    with pytest.raises(SpecError, match="line 1"):
        validated(Recipe, file(""))


def test_all_faults_are_listed_with_line_and_path(file):
    path = file("name: r\ndatasets: [a]\ngrid:\n  spacing: -1\n  colour: 3\nextra: 1\n")
    with pytest.raises(SpecError) as error:
        validated(Recipe, path)
    message = str(error.value)
    assert message.startswith(f"{path}:\n")
    assert "line 4, grid.spacing: " in message
    assert "got -1" in message
    assert "line 5, grid.colour: unknown key" in message
    assert "line 6, extra: unknown key" in message


def test_a_fault_in_a_list_has_the_line_of_its_item(file):
    with pytest.raises(SpecError, match=r"line 4, datasets\.1: .*got 7"):
        validated(Recipe, file("name: r\ndatasets:\n  - a\n  - 7\n"))


def test_a_missing_key_has_the_line_of_what_lacks_it(file):
    good = "{bit: 0, name: a, kind: organ, prompt: a, colour: [0, 0, 0]}"
    text = f"version: 1\nclasses:\n  - {good}\n  - {{bit: 1, name: b}}\n"
    with pytest.raises(SpecError, match=r"line 4, classes\.1\.prompt: Field required"):
        validated(Taxonomy, file(text))


def test_long_input_is_cut_in_messages(file):
    with pytest.raises(SpecError) as error:
        validated(Recipe, file(f"name: {'x' * 100_000}\ndatasets: [a]\n"))
    assert len(str(error.value)) < 1000


YAML_LIKE = st.one_of(
    st.text(alphabet="ab01.:-?&*!|>'\"[]{},#% \n\t~<=\\é\ud7ff", max_size=60),
    st.text(max_size=40),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.dates()
        | st.binary(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=4)
        ),
        max_leaves=12,
    ).map(yaml.safe_dump),
    st.dictionaries(
        st.sampled_from(["name", "datasets", "grid", "splits", "version", "classes", "layout", "licence", "id", "x"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["spacing", "bit", "name", "parents", "labels", "case"]), inner, max_size=3
                )
            ),
            max_leaves=8,
        ),
        max_size=5,
    ).map(yaml.safe_dump),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=YAML_LIKE)
@pytest.mark.parametrize("model", [Recipe, Taxonomy, Manifest])
def test_whatever_the_text_the_only_error_is_a_spec_error(file, model, text):
    path = file(text.encode("utf-8", "surrogatepass"))
    try:
        validated(model, path)
    except SpecError as error:
        assert str(path) in str(error)  # noqa: PT017


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=80))
def test_whatever_the_bytes_the_only_error_is_a_spec_error(file, data):
    path = file(data)
    try:
        validated(Recipe, path)
    except SpecError as error:
        assert str(path) in str(error)  # noqa: PT017
