"""Six formats, plain and compressed: any text comes through unchanged, any damage has its place and reason."""

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.readers import MissingColumnsError, Row, Unreadable, file_format, read_document, read_rows

SUFFIXES = ["", ".gz", ".zst"]
TEXTS = [
    "plain",
    "汉字，没有空格。",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈",
    'a "quoted", text',
    "العربية",
    "two\nlines",
    "caf\u0301e",
    "\u2028 separator",
]
any_text = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=40)
Rows = list[dict[str, str]]


def pack(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content, mtime=0)
    return zstandard.ZstdCompressor().compress(content) if suffix == ".zst" else content


def as_jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: Rows) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def as_tsv(rows: Rows) -> bytes:
    return "".join(
        "\t".join(fields) + "\n" for fields in [list(rows[0]), *(list(row.values()) for row in rows)]
    ).encode()


def as_parquet(rows: Rows) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    ".jsonl": as_jsonl,
    ".csv": as_csv,
    ".tsv": as_tsv,
    ".parquet": as_parquet,
}


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(pack(content, path.suffix))
    return path


def texts_of(path: Path) -> list[str]:
    return [row.values["text"] for row in read_rows(path, ["text"]) if isinstance(row, Row)]


def faults_of(path: Path) -> list[tuple[int | None, str]]:
    return [(row.number, row.reason) for row in read_rows(path, ["text"]) if isinstance(row, Unreadable)]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("format_", list(WRITERS))
def test_rows_come_through_unchanged(tmp_path: Path, format_: str, suffix: str) -> None:
    texts = [text for text in TEXTS if format_ != ".tsv" or "\n" not in text]
    rows = [{"other": "1", "text": text} for text in texts]
    path = write(tmp_path, f"rows{format_}{suffix}", WRITERS[format_](rows))
    assert texts_of(path) == texts
    assert faults_of(path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(texts=st.lists(any_text, min_size=1, max_size=5))
@settings(max_examples=25)
def test_any_text_in_any_language_round_trips(suffix: str, texts: list[str]) -> None:
    rows = [{"text": text, "other": "x"} for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        for format_ in (".jsonl", ".csv", ".parquet"):
            path = write(Path(folder), f"rows{format_}{suffix}", WRITERS[format_](rows))
            assert texts_of(path) == texts, format_
        path = write(Path(folder), f"text.md{suffix}", texts[0].encode())
        assert read_document(path) == texts[0].removeprefix("\ufeff")


def test_formats_are_told_by_their_suffix_in_any_case() -> None:
    assert [file_format(Path(name)) for name in ("a.CSV.gz", "b.md", "c.tar.zst", "d", "e.gz")] == [
        ".csv",
        ".md",
        ".tar",
        "",
        "",
    ]


@pytest.mark.parametrize("format_", [".jsonl", ".csv", ".tsv"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, format_: str) -> None:
    path = write(tmp_path, f"rows{format_}", b"\xef\xbb\xbf" + WRITERS[format_]([{"text": "one"}]))
    assert texts_of(path) == ["one"]


@pytest.mark.parametrize("format_", list(WRITERS))
def test_a_missing_column_is_named_with_those_there(tmp_path: Path, format_: str) -> None:
    path = write(tmp_path, f"rows{format_}", WRITERS[format_]([{"body": "one", "label": "a"}]))
    with pytest.raises(MissingColumnsError, match="no column 'text'; columns there: 'body', 'label'"):
        texts_of(path)


@pytest.mark.parametrize("format_", [".csv", ".tsv", ".jsonl"])
def test_an_empty_table_has_no_columns(tmp_path: Path, format_: str) -> None:
    with pytest.raises(MissingColumnsError, match="none, the file is empty"):
        texts_of(write(tmp_path, f"rows{format_}", b""))


@pytest.mark.parametrize(
    ("format_", "line"), [(".jsonl", b'{"text": "b\xff"}\n'), (".csv", b"b\xff,x\n"), (".tsv", b"b\xff\tx\n")]
)
def test_a_wrong_byte_sets_its_row_aside(tmp_path: Path, format_: str, line: bytes) -> None:
    good = WRITERS[format_]([{"text": "a", "other": "x"}])
    path = write(tmp_path, f"rows{format_}", good + line + good.splitlines(keepends=True)[-1])
    number = len(good.splitlines()) + 1
    assert texts_of(path) == ["a", "a"]
    assert faults_of(path) == [(number, "not UTF-8: byte 0xff")]


def test_a_wrong_byte_in_parquet_sets_its_row_aside(tmp_path: Path) -> None:
    column = pa.array([b"a", b"b\xff", b"c"]).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "rows.parquet")
    assert texts_of(tmp_path / "rows.parquet") == ["a", "c"]
    assert faults_of(tmp_path / "rows.parquet") == [(2, "not UTF-8: byte 0xff")]


def test_dictionary_and_large_strings_are_strings(tmp_path: Path) -> None:
    words = pa.array(["a", None, "a"])
    for kind in (words.dictionary_encode(), words.cast(pa.large_string())):
        pq.write_table(pa.table({"text": kind}), tmp_path / "rows.parquet")
        assert texts_of(tmp_path / "rows.parquet") == ["a", None, "a"]


def test_a_wrong_byte_makes_a_document_unreadable(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, "a.txt", "一\n二\n".encode() + b"\xa4\xa4\n"))
    assert document == Unreadable(3, "not UTF-8: byte 0xa4", "一\n二\n��\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "b"', "not JSON: Expecting ',' delimiter"),
        ("[1, 2]", "not a JSON object"),
        ('{"body": "b"}', "no key 'text'"),
        ("[" * 100_000, "not JSON: maximum recursion depth"),
    ],
)
def test_wrong_json_lines(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path, "rows.jsonl", f'{{"text": "a"}}\n\n{line}\n{{"text": "c"}}'.encode())
    assert texts_of(path) == ["a", "c"]
    [(number, found)] = faults_of(path)
    assert number == 3
    assert found.startswith(reason)


def test_wrong_csv_records(tmp_path: Path) -> None:
    content = 'text,label\n"two\nlines",a\n\nonly one\n"b"c,d\ne,f\n"never closed,g\nh,i\n'
    path = write(tmp_path, "rows.csv", content.encode())
    assert texts_of(path) == ["two\nlines", "e"]
    assert faults_of(path) == [
        (5, "1 fields, the header has 2"),
        (6, "not CSV: ',' expected after '\"'"),
        (8, "a quote that begins here never ends"),
    ]


def test_a_quote_in_tsv_is_a_quote(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.tsv", b'text\tlabel\r\n"so it begins\t1\r\nand " goes on\t0\r\n')
    assert texts_of(path) == ['"so it begins', 'and " goes on']


def test_long_fields_are_read(tmp_path: Path) -> None:
    assert texts_of(write(tmp_path, "rows.csv", as_csv([{"text": "长" * 300_000}]))) == ["长" * 300_000]


@pytest.mark.parametrize(
    ("suffix", "reason"), [(".gz", "not a whole gzip file"), (".zst", "not a whole Zstandard file")]
)
def test_rows_before_a_tear_are_kept(tmp_path: Path, suffix: str, reason: str) -> None:
    rows = [{"text": f"{number} {'x' * (number * 7919 % 97)} {number**9}"} for number in range(30_000)]
    whole = pack(as_jsonl(rows), suffix)
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    kept = texts_of(path)
    assert 1000 < len(kept) < len(rows)
    assert kept == [row["text"] for row in rows[: len(kept)]]
    [(number, found)] = faults_of(path)
    assert number is None
    assert reason in found


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_torn_document_is_no_document(tmp_path: Path, suffix: str) -> None:
    whole = pack(b"some text " * 1000, suffix)
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    assert isinstance(read_document(path), Unreadable)
    path.write_bytes(b"this is no compressed file")
    assert isinstance(read_document(path), Unreadable)


def test_several_frames_and_members_are_read_to_the_end(tmp_path: Path) -> None:
    for suffix in (".gz", ".zst"):
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(pack(b"one ", suffix) + pack(b"two", suffix))
        assert read_document(path) == "one two"


def test_a_torn_parquet_file_is_set_aside(tmp_path: Path) -> None:
    whole = as_parquet([{"text": "a"}])
    for name, content in {"rows.parquet": whole[:-9], "rows.parquet.gz": gzip.compress(whole[:-9])}.items():
        (tmp_path / name).write_bytes(content)
        [(number, reason)] = faults_of(tmp_path / name)
        assert number is None
        assert reason.startswith("not a whole Parquet file")


@pytest.mark.parametrize(("format_", "write_fields"), [(".csv", as_csv), (".tsv", as_tsv)])
def test_a_table_without_a_header_gives_its_columns_by_number(
    tmp_path: Path, format_: str, write_fields: Callable[[Rows], bytes]
) -> None:
    rows = [{"text": "满纸荒唐言", "label": "0"}, {"text": 'a "quoted" text', "label": "1"}]
    content = write_fields(rows).partition(b"\n")[2]  # the header is gone
    path = write(tmp_path, f"rows{format_}.gz", content)
    assert list(read_rows(path, [2, 1])) == [
        Row(number, {1: row["text"], 2: row["label"]}) for number, row in enumerate(rows, 1)
    ]


def test_rows_without_a_header_have_as_many_fields_as_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.tsv", b"a\t1\nb\n\xff\t1\nc\t0\n")
    found = list(read_rows(path, [1, 2]))
    assert found[0] == Row(1, {1: "a", 2: "1"})
    assert found[1] == Unreadable(2, "1 fields, the first row has 2", "b")
    assert found[2] == Unreadable(3, "not UTF-8: byte 0xff", "\ufffd 1")
    assert found[3] == Row(4, {1: "c", 2: "0"})
    with pytest.raises(MissingColumnsError, match="no column 3; columns there: 1, 2"):
        list(read_rows(path, [1, 3]))


def test_a_name_that_no_header_has_is_met_with_a_hint(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.tsv", b"a fine film\t1\n")
    with pytest.raises(MissingColumnsError, match="where the first line is no header, give the columns' numbers"):
        list(read_rows(path, ["text"]))
