"""Where an HTTP/1.x request ends (RFC 9112, sections 6 and 7.1), found while it arrives.

This decides only when a request is handed to gunicorn's parser, and never what it means. The parser gets exactly the bytes up
to the end that is found here, so that the two cannot disagree unnoticed: what it leaves over, or misses, closes the connection.
Whatever looks unusual is not judged here either: it is `BROKEN`, and the parser answers.
"""

from __future__ import annotations

MORE = 0
"""The request goes on."""
BROKEN = -1
"""It has no end that is waited for: it is malformed, ambiguous, or larger than allowed."""
HEAD_TOO_LARGE = -2

CRLF = b"\r\n"
_LENGTH = b"\r\ncontent-length:"
_CODING = b"\r\ntransfer-encoding:"
_EXPECT = b"\r\nexpect:"
_BLANKS = b" \t"
_MAX_DIGITS = 18
"""Longer numbers are beyond every limit."""
_MAX_SIZE_LINE = 8190
"""The longest line with the size of a chunk that gunicorn takes, extensions included."""


class RequestEnd:
    """Looks for the end of the first request in a growing buffer; one object for each request.

    ``max_head`` and ``max_body`` are bytes. A chunked body may be twice as large as it is when decoded: smaller chunks than
    about six bytes each are no client's.
    """

    __slots__ = ("_chunk", "_chunked_body", "_end", "_max_body", "_max_head", "_searched", "expects_continue", "head_size")

    def __init__(self, max_head: int, max_body: int) -> None:
        self._max_head = max_head
        self._max_body = max_body
        self._searched = 0
        self._end: int | None = None
        self._chunk: int | None = None
        self._chunked_body = 0
        self.head_size = 0
        """Bytes of the request line and the headers; 0 while they are not complete."""
        self.expects_continue = False
        """The client waits for "100 Continue" before it sends the body (RFC 9110, section 10.1.1)."""

    def find(self, received: bytes | bytearray) -> int:
        """The number of bytes of the first request, or `MORE`, `BROKEN`, `HEAD_TOO_LARGE`.

        ``received`` is all that has come since the request's first byte.
        """
        if not self.head_size:
            missing = self._find_head(received)
            if missing is not None:
                return missing
        if self._chunk is not None:
            return self._find_last_chunk(received)
        assert self._end is not None  # noqa: S101 - for the type checker: the head has said it
        return self._end if len(received) >= self._end else MORE

    # -- the head ----------------------------------------------------------------------------------------------------------

    def _find_head(self, received: bytes | bytearray) -> int | None:
        """None when the head is complete and says how the body ends."""
        found = received.find(b"\r\n\r\n", self._searched)
        if found < 0:
            return self._judge_unfinished_head(received)
        if found > self._max_head:
            return HEAD_TOO_LARGE
        self.head_size = found + 4
        # With the end of its last line, and in one case of letters: names of headers have none.
        return self._read_head(bytes(received[: found + 2]).lower())

    def _judge_unfinished_head(self, received: bytes | bytearray) -> int:
        if len(received) > self._max_head:
            return HEAD_TOO_LARGE
        # Lines that end without a carriage return never come to the end that is looked for.
        if received.find(b"\n\n", self._searched) >= 0 or received.startswith(b"\n"):
            return BROKEN
        self._searched = max(0, len(received) - 3)
        return MORE

    def _read_head(self, head: bytes) -> int | None:
        length = head.find(_LENGTH)
        coding = head.find(_CODING)
        if coding >= 0:
            if length >= 0 or _value(head, coding + len(_CODING)) != b"chunked" or head.find(_CODING, coding + 1) >= 0:
                return BROKEN
            self._chunk = self.head_size
        elif length >= 0:
            size = _value(head, length + len(_LENGTH))
            if not size.isdigit() or len(size) > _MAX_DIGITS or head.find(_LENGTH, length + 1) >= 0:
                return BROKEN
            if int(size) > self._max_body:
                return BROKEN
            self._end = self.head_size + int(size)
        else:
            self._end = self.head_size
        self.expects_continue = _expects_continue(head)
        return None

    # -- a chunked body ----------------------------------------------------------------------------------------------------

    def _find_last_chunk(self, received: bytes | bytearray) -> int:
        """Goes on at the chunk where it stopped the last time; ``_chunk`` is the index of its line with the size."""
        assert self._chunk is not None  # noqa: S101 - for the type checker
        if len(received) - self.head_size > 2 * self._max_body + self._max_head:
            return BROKEN
        while True:
            line = received.find(CRLF, self._chunk, self._chunk + _MAX_SIZE_LINE + 2)
            if line < 0:
                return MORE if len(received) - self._chunk <= _MAX_SIZE_LINE else BROKEN
            size = _chunk_size(bytes(received[self._chunk : line]))
            if size is None or self._chunked_body + size > self._max_body:
                return BROKEN
            if size == 0:
                return self._find_end_of_trailers(received, line)
            end = line + 2 + size
            if len(received) < end + 2:
                return MORE
            if received[end : end + 2] != CRLF:
                return BROKEN
            self._chunked_body += size
            self._chunk = end + 2

    def _find_end_of_trailers(self, received: bytes | bytearray, line: int) -> int:
        """``line`` is the index of the end of the last chunk's line, with which the trailer section's empty line may be one."""
        found = received.find(b"\r\n\r\n", line)
        if found >= 0:
            return found + 4 if found - line <= self._max_head else BROKEN
        return MORE if len(received) - line <= self._max_head else BROKEN


def _value(head: bytes, start: int) -> bytes:
    return head[start : head.index(CRLF, start)].strip(_BLANKS)


def _chunk_size(line: bytes) -> int | None:
    """None for what is not hexadecimal digits and extensions."""
    digits, extension, _ = line.partition(b";")
    if extension:
        digits = digits.rstrip(_BLANKS)
    if not digits or len(digits) > _MAX_DIGITS or digits.strip(b"0123456789abcdefABCDEF"):
        return None
    return int(digits, 16)


def _expects_continue(head: bytes) -> bool:
    expect = head.find(_EXPECT)
    # HTTP/1.0 knows no such answer.
    return expect >= 0 and _value(head, expect + len(_EXPECT)) == b"100-continue" and head.find(b" http/1.0\r\n") < 0
