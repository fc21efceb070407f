"""The fast parser: FER2013's text files of pixels into uint8 pictures, 301 MB in a second and a half.

Measured: results/benchmarks/parse.json. A block of lines is decoded as one array of bytes: its separators say where
numbers end, and the three bytes before each end are the number. A block whose separators are not exactly where 48x48
pixels put them goes to a line-by-line reader that accepts what is merely untidy and names what is wrong.
"""

import os
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ferkit import DataError
from ferkit.labels import CLASSES, UNLABELLED, USAGES

SIDE = 48
N_PIXELS = SIDE * SIDE
COLUMNS = ("emotion", "pixels", "usage")
BLOCK = 1 << 20  # bytes: a block and its temporaries stay in a core's cache
AGAIN = "download the file again"
_LABEL_CODES = {str(label).encode(): label for label in range(len(CLASSES))}
_USAGE_CODES = {usage.encode(): code for code, usage in enumerate(USAGES)}


@dataclass(frozen=True)
class Table:
    """A parsed file: images uint8 (N, 48, 48), labels int64 (N,), usage uint8 (N,) or None without such a column."""

    images: np.ndarray
    labels: np.ndarray
    usage: np.ndarray | None


def parse(file: BinaryIO, name: str) -> Table:
    """Read a CSV of the columns emotion, pixels, Usage (any order, pixels required), as FER2013's files have them.

    Windows line ends, a byte-order mark, blanks around fields and blank lines are read; anything else raises
    DataError with `name`, the line and the remedy.
    """
    columns = _header(file.readline(1 << 12), name)
    images, labels, usages = [], [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        blocks = ((block, line, columns, name) for block, line in _blocks(file, name))
        for part in _in_order(pool, lambda arguments: _parse_block(*arguments), blocks, ahead=os.cpu_count() + 1):
            images.append(part.images)
            labels.append(part.labels)
            usages.append(part.usage)
    if not sum(map(len, images)):
        raise DataError(f"{name}: a header and no rows; {AGAIN}")
    usage = np.concatenate(usages) if "usage" in columns else None
    return Table(_concatenate(images), np.concatenate(labels), usage)


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    """np.concatenate that frees each part as it goes: half the peak memory."""
    whole = np.empty((sum(map(len, parts)), SIDE, SIDE), np.uint8)
    end = len(whole)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole


def _header(line: bytes, name: str) -> list[str]:
    text = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").strip()
    if not text:
        raise DataError(f"{name}: the file is empty; {AGAIN}")
    if text.lower().startswith(("<!doctype", "<html", "<?xml", "<head")):
        raise DataError(
            f"{name}: a web page, not a CSV (a login page was saved instead of the file); sign in and {AGAIN}"
        )
    columns = [column.strip().strip('"').strip().lower() for column in text.split(",")]
    if "pixels" not in columns or set(columns) - set(COLUMNS) or len(set(columns)) < len(columns):
        raise DataError(
            f"{name}, line 1: columns {[c[:20] for c in columns[:4]]}; expected emotion, pixels, Usage or pixels alone"
        )
    return columns


def _blocks(file: BinaryIO, name: str) -> Iterator[tuple[bytes, int]]:
    """Blocks of whole lines with the number of their first line."""
    rest, line = b"", 2
    while True:
        try:
            new = file.read(BLOCK)
        except (EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{name}, after line {line}: cannot be read on ({error}); {AGAIN}") from error
        data, rest = rest + new, b""
        if not data:
            return
        cut = data.rfind(b"\n") + 1
        if new and len(data) >= BLOCK:
            data, rest = data[:cut], data[cut:]
            if not cut:
                if len(rest) > 8 * BLOCK:
                    raise DataError(f"{name}, line {line}: a line of over {len(rest) >> 20} MB; {AGAIN}")
                continue
        yield data, line
        line += data.count(b"\n")


def _in_order(pool: ThreadPoolExecutor, function: Callable, items: Iterable, ahead: int) -> Iterator:
    """pool.map that holds no more than `ahead` items at a time."""
    pending: deque = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _parse_block(block: bytes, line: int, columns: list[str], name: str) -> Table:
    regular = _parse_regular(block.replace(b"\r\n", b"\n"), columns)
    return regular or _parse_lines(block, line, columns, name)


def _parse_regular(block: bytes, columns: list[str]) -> Table | None:
    """A block in which every line is exactly as it should be; None when any is not."""
    text = np.frombuffer(block, np.uint8)
    at, n_tokens = columns.index("pixels"), N_PIXELS + len(columns) - 1
    ends = np.flatnonzero(text < 48)  # whatever is below "0" ends a token
    if not len(ends) or len(ends) % n_tokens or ends[-1] != len(text) - 1:
        return None
    template = np.full(n_tokens, 32, np.uint8)  # blanks, commas around the pixels, a newline
    template[[*range(at), *range(at + N_PIXELS - 1, n_tokens)]] = 44
    template[-1] = 10
    if (text.take(ends).reshape(-1, n_tokens) != template).any():
        return None
    images = _numbers(text, ends, slice(at, at + N_PIXELS), n_tokens)
    starts, stops = np.append(0, ends[:-1] + 1).reshape(-1, n_tokens), ends.reshape(-1, n_tokens)
    keep = [*range(at), *range(at + N_PIXELS, n_tokens)]
    bounds = np.stack([starts[:, keep], stops[:, keep]], -1).tolist()
    names = [column for column in columns if column != "pixels"]
    words = {name: [block[slice(*row[i])] for row in bounds] for i, name in enumerate(names)}
    labels, usage = _labels(words.get("emotion"), len(starts)), _usages(words.get("usage"), len(starts))
    return None if images is None or labels is None or usage is None else Table(images, labels, usage)


def _numbers(text: np.ndarray, ends: np.ndarray, pixels: slice, n_tokens: int) -> np.ndarray | None:
    """uint8 (lines, 48, 48) from the three bytes before each pixel's end; None when any is not a number in 0..255."""
    digits = np.full(len(text) + 3, 255, np.uint8)
    np.subtract(text, 48, out=digits[3:])  # wraps to over 9 for everything below "0"
    units, tens, hundreds = (digits[k:].take(ends).reshape(-1, n_tokens)[:, pixels] for k in (2, 1, 0))
    has_tens = tens < 10
    has_hundreds = has_tens & (hundreds < 10)
    length = np.minimum(np.diff(ends, prepend=-1), 9).astype(np.uint8).reshape(-1, n_tokens)[:, pixels]
    if (units > 9).any() or (1 + has_tens + has_hundreds.view(np.uint8) != length - np.uint8(1)).any():
        return None
    below = units + np.uint8(10) * tens * has_tens
    above = hundreds * has_hundreds
    value = below + np.uint8(100) * above
    if (above > 2).any() or (value < below).any():  # 256..299 wrap around
        return None
    return value.reshape(-1, SIDE, SIDE)


def _labels(words: list[bytes] | None, n: int) -> np.ndarray | None:
    if words is None:
        return np.full(n, UNLABELLED)
    codes = [_LABEL_CODES.get(word) for word in words]
    return None if None in codes else np.array(codes, np.int64)


def _usages(words: list[bytes] | None, n: int) -> np.ndarray | None:
    if words is None:
        return np.zeros(n, np.uint8)
    codes = [_USAGE_CODES.get(word) for word in words]
    return None if None in codes else np.array(codes, np.uint8)


def _parse_lines(block: bytes, line: int, columns: list[str], name: str) -> Table:
    """The patient reader: line by line, blanks and quotes allowed, the first mistake named."""
    images, labels, usages = [], [], []
    texts = block.split(b"\n")
    for offset, text in enumerate(texts):
        if not text.strip():
            continue
        place = f"{name}, line {line + offset}"
        unfinished = offset == len(texts) - 1
        remedy = f"the file ends in the middle of this line; {AGAIN}" if unfinished else f"correct the line or {AGAIN}"
        fields = [field.strip().strip(b'"').strip() for field in text.split(b",")]
        if len(fields) != len(columns):
            raise DataError(f"{place}: {len(fields)} fields, expected {len(columns)}; {remedy}")
        row = dict(zip(columns, fields, strict=True))
        images.append(_pixels(row["pixels"], place, remedy))
        labels.append(_label(row.get("emotion"), place, remedy))
        usages.append(_usage(row.get("usage"), place, remedy))
    pictures = np.array(images, np.uint8).reshape(-1, SIDE, SIDE)
    return Table(pictures, np.array(labels, np.int64), np.array(usages, np.uint8))


def _pixels(field: bytes, place: str, remedy: str) -> list[int]:
    words = field.split()
    if len(words) != N_PIXELS:
        raise DataError(f"{place}: {len(words)} pixels, expected {SIDE}x{SIDE} = {N_PIXELS}; {remedy}")
    values = [number_below(256, word) for word in words]
    if None in values:
        bad = words[values.index(None)]
        raise DataError(f"{place}: pixel {bad[:20].decode('utf-8', 'replace')!r} is not a number in 0..255; {remedy}")
    return values


def number_below(limit: int, field: bytes) -> int | None:
    """The number that a field is, where it is below the limit (1000 at most); of endless digits four are converted."""
    value = int(field.lstrip(b"0")[:4] or 0) if field.isdigit() else limit
    return value if value < limit else None


def _label(field: bytes | None, place: str, remedy: str) -> int:
    if field is None:
        return UNLABELLED
    if (label := number_below(len(CLASSES), field)) is None:
        text = field[:20].decode("utf-8", "replace")
        raise DataError(f"{place}: emotion {text!r} is not a label in 0..{len(CLASSES) - 1}; {remedy}")
    return label


def _usage(field: bytes | None, place: str, remedy: str) -> int:
    if field is None:
        return 0
    if field not in _USAGE_CODES:
        text = field[:20].decode("utf-8", "replace")
        raise DataError(f"{place}: unknown Usage {text!r}; it is one of {', '.join(USAGES)}; {remedy}")
    return _USAGE_CODES[field]
