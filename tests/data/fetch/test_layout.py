import pytest

from tracegrad.data.fetch.layout import arrange_structures, single_file
from tracegrad.errors import DataError


def write_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a/element.dat", "b/element.dat"], ["a", "b"]),
        (["data/processed/a/element.dat", "data/processed/b/info.json", "data/processed/b/lat.dat"], ["a"]),
        (["top/a/hamiltonians.h5", "top/b/hamiltonians.h5"], ["a", "b"]),
        (
            ["x/plain/a/element.dat", "x/plain/b/element.dat", "x/twisted/7-8/element.dat"],
            ["plain/a", "plain/b", "twisted/7-8"],
        ),
        (["1/1/raw/a/element.dat", "2/2/raw/a/element.dat"], ["1_raw/a", "2_raw/a"]),
        (["top/a/element.dat", "top/twisted/b/element.dat"], ["a", "twisted/b"]),
        (["element.dat"], ["draft"]),
    ],
)
def test_structures_end_where_databases_are_read(tmp_path, files, names):
    draft = write_files(tmp_path / "draft", *files, "README.md")
    assert arrange_structures(draft, tmp_path / "BG") == names
    for name in names:
        assert any((tmp_path / "BG" / name).iterdir())


def test_everything_else_is_kept_apart(tmp_path):
    draft = write_files(tmp_path / "draft", "top/a/element.dat", "top/README.md")
    arrange_structures(draft, tmp_path / "BG")
    assert (tmp_path / "BG" / "other_files" / "top" / "README.md").is_file()


def test_archives_of_something_else(tmp_path):
    draft = write_files(tmp_path / "draft", *(f"{name}.txt" for name in "abcdef"))
    with pytest.raises(
        DataError, match=r"holds a.txt, b.txt, c.txt, d.txt, e.txt, ... and no folder of a structure"
    ):
        arrange_structures(draft, tmp_path / "BG")
    with pytest.raises(DataError, match=r"holds a.txt, .* and not QH9Stable.db; it is of another database"):
        single_file(draft, "QH9Stable.db")
    write_files(draft, "x/QH9Stable.db", "y/QH9Stable.db")
    with pytest.raises(DataError, match=r"and not one QH9Stable\.db"):
        single_file(draft, "QH9Stable.db")


def test_names_that_meet(tmp_path):
    draft = write_files(tmp_path / "draft", "p/q/a/element.dat", "p_q/a/element.dat")
    with pytest.raises(DataError, match="would both become p_q/a"):
        arrange_structures(draft, tmp_path / "BG")
