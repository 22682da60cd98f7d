"""JSON merge patch, as RFC 7396 defines it."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from keyosk.merge_patch import merge_patch
from tables import table

# A busy machine may take its time over one example.
thorough = settings(max_examples=60, deadline=None)
# RFC 7396 appendix A, all fifteen rows: the original, the patch, the result.
APPENDIX_A = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4)
    ),
    max_leaves=12,
)


@table(("original", "patch", "result"), APPENDIX_A)
def test_a_row_of_the_rfc_comes_out_as_the_rfc_says(original: str, patch: str, result: str) -> None:
    assert merge_patch(json.loads(original), json.loads(patch)) == json.loads(result)


def test_the_example_of_the_rfc_comes_out_as_in_its_section_3() -> None:
    original = {
        "title": "Goodbye!",
        "author": {"givenName": "John", "familyName": "Doe"},
        "tags": ["example", "sample"],
        "content": "This will be unchanged",
    }
    patch = {
        "title": "Hello!",
        "phoneNumber": "+01-123-456-7890",
        "author": {"familyName": None},
        "tags": ["example"],
    }
    assert merge_patch(original, patch) == {
        "title": "Hello!",
        "author": {"givenName": "John"},
        "tags": ["example"],
        "content": "This will be unchanged",
        "phoneNumber": "+01-123-456-7890",
    }


@thorough
@given(DOCUMENTS, DOCUMENTS)
def test_neither_the_original_nor_the_patch_is_changed(original: Any, patch: Any) -> None:
    before = json.dumps([original, patch])
    merge_patch(original, patch)
    assert json.dumps([original, patch]) == before


@thorough
@given(DOCUMENTS, DOCUMENTS)
def test_a_patch_that_is_applied_twice_changes_nothing_more(original: Any, patch: Any) -> None:
    once = merge_patch(original, patch)
    assert merge_patch(once, patch) == once


@thorough
@given(DOCUMENTS, DOCUMENTS)
def test_members_that_the_patch_does_not_name_stay_as_they_were(original: Any, patch: Any) -> None:
    if not isinstance(original, dict) or not isinstance(patch, dict):
        return
    merged = merge_patch(original, patch)
    for name in original.keys() - patch.keys():
        assert merged[name] == original[name]
    for name, value in patch.items():
        assert (name in merged) is (value is not None)
