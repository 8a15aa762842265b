"""What is given to `deploy` becomes one request for each function."""

import io
import zipfile
from pathlib import Path

import pytest

from mayfly.archive import NotPackable
from mayfly.project import from_bytes, from_path

MANIFEST = """
[functions.hello]
memory = 64
env = { A = "1" }

[functions.billing.charge]
timeout = 5

[functions."billing.refund"]
[functions.plain]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "mayfly.toml").write_text(MANIFEST)
    (folder / "main.py").write_text("")
    return folder


def test_file_is_named_after_itself(tmp_path: Path) -> None:
    """`mayfly deploy My_Function.py` needs neither a name nor a manifest."""
    path = tmp_path / "My_Function.py"
    path.write_text("def handler(event, context): ...\n")
    (source,) = from_path(path)
    assert (source.name, source.filename, source.settings) == ("my-function", "My_Function.py", None)
    assert source.content == path.read_bytes()


def test_manifest_names_every_function_dotted_or_quoted(project: Path) -> None:
    """Both ways of TOML to write a dotted name, and a table without any setting."""
    sources = from_path(project)
    assert [source.name for source in sources] == ["hello", "billing.charge", "billing.refund", "plain"]
    assert {source.settings for source in sources if source.settings is None} == {None}
    assert len({source.content for source in sources}) == 1


def test_zip_is_read_as_a_folder_is(project: Path, tmp_path: Path) -> None:
    """A ZIP made elsewhere deploys the same functions."""
    packed = tmp_path / "shop.zip"
    packed.write_bytes(from_path(project)[0].content)
    assert [source.name for source in from_path(packed)] == [source.name for source in from_path(project)]


def test_settings_given_win_over_the_manifest_one_by_one(project: Path) -> None:
    """`--memory 256` changes the memory and leaves the rest of the manifest as it is."""
    (source,) = from_path(project, "hello", {"memory": 256})
    assert source.settings == {"memory": 256, "env": {"A": "1"}}


def test_folder_without_manifest_is_one_function(tmp_path: Path) -> None:
    """Named after the folder, unless a name is given."""
    (tmp_path / "greet").mkdir()
    (tmp_path / "greet/main.py").write_text("")
    assert [source.name for source in from_path(tmp_path / "greet")] == ["greet"]
    assert [source.name for source in from_path(tmp_path / "greet", "other")] == ["other"]


def test_broken_zip_and_manifest_are_left_to_the_registry() -> None:
    """The registry says what is wrong with them; the client must not fall over."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("mayfly.toml", "this is not TOML")
    for content in (buffer.getvalue(), b"PK\3\4 no ZIP"):
        (source,) = from_bytes(content, "hello")
        assert (source.name, source.filename, source.content) == ("hello", "hello.zip", content)


def test_bytes_of_a_file_get_a_name_that_can_be_imported() -> None:
    """A module's file name has no dots and dashes."""
    (source,) = from_bytes(b"def handler(event, context): ...", "billing.charge-all")
    assert source.filename == "billing_charge_all.py"


@pytest.mark.parametrize("name", ["missing.py", "notes.txt", "späm.py"])
def test_what_cannot_be_a_function_is_said(tmp_path: Path, name: str) -> None:
    """A wrong path, a wrong kind of file, a file whose name makes no function's name."""
    if not name.startswith("missing"):
        (tmp_path / name).write_text("")
    with pytest.raises(NotPackable, match=name.partition(".")[0]):
        from_path(tmp_path / name)


def test_table_of_retries_is_taken_for_a_function(tmp_path: Path) -> None:
    """Settings that are tables themselves do not make a function of two parts."""
    (tmp_path / "main.py").write_text("")
    (tmp_path / "mayfly.toml").write_text(
        "[functions.a]\nretries = { attempts = 1 }\n[functions.b.batch]\nsize = 3\n[functions.c.d]\nmemory = 64\n"
    )
    assert [source.name for source in from_path(tmp_path)] == ["a", "b", "c.d"]
