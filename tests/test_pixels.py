import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit import DataError, pixels


def parse(data: bytes):
    return pixels.parse(io.BytesIO(data), "faces.csv")


@pytest.mark.parametrize("order", ["epu", "eup", "pe", "p", "upe"])
def test_every_column_order(sample, tmp_path, order):
    table = parse(sample.csv(tmp_path / "faces.csv", order).read_bytes())
    np.testing.assert_array_equal(table.images, sample.images)
    np.testing.assert_array_equal(table.labels, sample.labels if "e" in order else np.full(42, -1))
    assert (table.usage is None) == ("u" not in order)
    if "u" in order:
        np.testing.assert_array_equal(table.usage, sample.usage)


def good(sample, rows: int = 3) -> bytes:
    return b"emotion,pixels,Usage\n" + "".join(sample.line(i) + "\n" for i in range(rows)).encode()


UNTIDY = {
    "windows line ends": lambda d: d.replace(b"\n", b"\r\n"),
    "byte-order mark": lambda d: b"\xef\xbb\xbf" + d,
    "no last newline": lambda d: d.rstrip(b"\n"),
    "blank lines": lambda d: d.replace(b"\n", b"\n\n"),
    "quotes and blanks": lambda d: d.replace(b"emotion,pixels,Usage", b'"emotion", " pixels", " Usage"')
    .replace(b",Training", b', "Training"'),
    "two blanks": lambda d: d.replace(b" ", b"  ", 5),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTIDY)
def test_untidy_files_are_simply_read(sample, name):
    table = parse(UNTIDY[name](good(sample)))
    np.testing.assert_array_equal(table.images, sample.images[:3])
    np.testing.assert_array_equal(table.labels, sample.labels[:3])


BROKEN = {
    "empty": (lambda d: b"", "faces.csv: the file is empty; download"),
    "only a header": (lambda d: d.split(b"\n")[0] + b"\n", "a header and no rows"),
    "login page": (lambda d: b"<!DOCTYPE html><html><body>Sign in</body>", "a web page, not a CSV.*login page"),
    "column names": (lambda d: d.replace(b"pixels", b"data", 1), "line 1: columns.*expected emotion, pixels, Usage"),
    "truncated": (lambda d: d[:-3000], "line 4: .*ends in the middle of this line; download"),
    "a tail of zeros": (lambda d: d + bytes(3 << 20), "line 5: .*ends in the middle of this line"),
    "a pixel missing": (lambda d: d.replace(b",0 9 255 ", b",0 9 "), "line 2: 2303 pixels, expected 48x48 = 2304"),
    "a pixel of 256": (
        lambda d: d.replace(b",0 9 255 ", b",0 9 256 "),
        "line 2: pixel '256' is not a number in 0..255",
    ),
    "a pixel of 999": (lambda d: d.replace(b",0 9 255 ", b",0 9 999 "), "line 2: pixel '999'"),
    "zeros before 999": (lambda d: d.replace(b",0 9 255 ", b",0 9 000000000999 "), "line 2: pixel '000000000999'"),
    "four digits": (lambda d: d.replace(b",0 9 255 ", b",0 9 1000 "), "line 2: pixel '1000'"),
    "a long number": (lambda d: d.replace(b",0 9 255 ", b",0 9 " + b"9" * 5000 + b" "), "line 2: pixel '9999"),
    "a length that wraps": (lambda d: d.replace(b",0 9 255 ", b",0 9 " + b"9" * 256 + b"255 "), "line 2: pixel '9999"),
    "letters, then a digit": (lambda d: d.replace(b",0 9 255 ", b",0 9 " + b"x" * 256 + b"5 "), "line 2: pixel 'xxx"),
    "no number": (lambda d: d.replace(b",0 9 255 ", b",0 9 x5 "), "line 2: pixel 'x5'"),
    "negative": (lambda d: d.replace(b",0 9 255 ", b",0 -9 255 "), "line 2: pixel '-9'"),
    "label": (lambda d: d.replace(b"\n1,", b"\n7,"), r"line 3: emotion '7' is not a label in 0\.\.6"),
    "label no number": (lambda d: d.replace(b"\n1,", b"\nx,"), "line 3: emotion 'x'"),
    "Usage": (lambda d: d.replace(b",Training\n2,", b",Trainin\n2,"), "line 3: unknown Usage 'Trainin'"),
    "a field too many": (lambda d: d.replace(b",Training\n2,", b",Training,0\n2,"), "line 3: 4 fields, expected 3"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_get_one_clear_error(sample, name):
    breaking, message = BROKEN[name]
    with pytest.raises(DataError, match=message):
        parse(breaking(good(sample)))


def test_the_first_mistake_of_a_large_file_is_named(sample, monkeypatch):
    monkeypatch.setattr(pixels, "BLOCK", 1 << 15)  # several blocks, each in a thread of its own
    lines = good(sample, 40).split(b"\n")
    lines[25] = lines[25].replace(b" ", b" 300 ", 1)
    lines[31] = b"rubbish"
    with pytest.raises(DataError, match="line 26: 2305 pixels"):
        parse(b"\n".join(lines))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20000), st.binary(min_size=0, max_size=6)), max_size=3), st.integers(1, 4))
def test_fuzz_the_fast_reader_never_disagrees_with_the_patient_one(sample, edits, rows):
    """Whatever bytes are put in: the same faces from both readers, or the same error."""
    data = bytearray(good(sample, rows))
    for at, patch in edits:
        data[at : at + len(patch)] = patch
    header, _, body = bytes(data).partition(b"\n")

    def attempt(function):
        try:
            columns = pixels._header(header + b"\n", "faces.csv")
            table = function(body, 2, columns, "faces.csv")
        except DataError as error:
            return str(error)
        return table.images.tobytes(), table.labels.tolist(), table.usage.tolist()

    assert attempt(pixels._parse_block) == attempt(pixels._parse_lines)
