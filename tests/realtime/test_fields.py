import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.errors import ProtocolError
from omni.realtime.fields import FieldError, Fields, dotted, read_object


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b'"a"', b"null", b"\xff\xfe", b"{'a':1}"])
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="Invalid"):
        read_object(text)


def test_absent_and_null_are_the_default() -> None:
    fields = read_object(b'{"a": null}')

    for name in ("a", "b"):
        assert fields.text(name, "x") == "x"
        assert fields.flag(name, True) is True
        assert fields.number(name, 1.5, 0, 2) == 1.5
        assert fields.whole(name, 1, 0, 2) == 1
        assert fields.optional_whole(name, 0, 2) is None
        assert fields.choice(name, "x", ("x", "y")) == "x"
        assert fields.items(name, 1) == ()
        assert fields.section(name).values == {}


def test_a_whole_number_may_be_written_as_javascript_does() -> None:
    assert read_object(b'{"k": 20.0}').whole("k", 1, 0, 100) == 20


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (True, lambda f: f.number("k", 1, 0, 2)),
        ("1", lambda f: f.number("k", 1, 0, 2)),
        (2.1, lambda f: f.number("k", 1, 0, 2)),
        (-1, lambda f: f.whole("k", 1, 0, 2)),
        (1.5, lambda f: f.whole("k", 1, 0, 2)),
        (1e300, lambda f: f.whole("k", 1, 0, 2)),
        (1, lambda f: f.flag("k", True)),
        (1, lambda f: f.text("k")),
        ("abcd", lambda f: f.text("k", max_chars=3)),
        ("z", lambda f: f.choice("k", "x", ("x", "y"))),
        ([], lambda f: f.choice("k", "x", ("x", "y"))),
        ({}, lambda f: f.items("k", 3)),
        ([1, 2], lambda f: f.items("k", 1)),
        ([1], lambda f: list(f.objects("k", 1))),
        ([], lambda f: f.section("k")),
    ],
)
def test_a_wrong_value_is_named_with_its_path(value: object, read: object) -> None:
    fields = Fields({"k": value}, ("config",))

    with pytest.raises(FieldError, match=r"^config\.k"):
        read(fields)  # type: ignore[operator]  # the table above holds functions


def test_a_path_is_written_as_people_write_it() -> None:
    assert dotted(("messages", 0, "content", 2, "data")) == "messages[0].content[2].data"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@settings(max_examples=30)
@given(_JSON)
def test_any_json_is_read_or_refused(document: object) -> None:
    try:
        fields = read_object(orjson.dumps(document))
        fields.number("a", 1, 0, 2)
    except ProtocolError:
        pass
