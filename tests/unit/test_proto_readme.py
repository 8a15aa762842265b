"""proto/README.md names what proto has."""

from pathlib import Path

from mayfly_proto import errors, headers, storage

README = (Path(__file__).parents[2] / "proto" / "README.md").read_text()


def test_every_error_is_in_the_table() -> None:
    """Each kind stands in the row of its code."""
    rows = [line for line in README.splitlines() if line.startswith("| ")]
    for kind in errors.ErrorType:
        assert any(str(kind.code) in row and f"`{kind.value}`" in row for row in rows), kind


def test_every_header_and_bucket_is_in_the_table() -> None:
    """None is left out."""
    names = {value for name, value in vars(headers).items() if name.isupper() and isinstance(value, str)}
    for name in (names - {headers.COLD, headers.WARM}) | {*storage.BUCKETS, *storage.OBJECT_STORES}:
        assert name in README, name
