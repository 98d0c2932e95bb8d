# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Entropy coders: a stack (asymmetric numeral systems) and a queue (range coding), over `constriction`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .distributions import Digits, Distribution, Frequencies, Ints


WORD = 4  # bytes
ENTROPY = 0x9E3779B97F4A7C15  # of the initial bits, which both sides could draw


def require_constriction() -> None:
    """Raise ValueError unless the package `constriction` is installed."""
    if importlib.util.find_spec("constriction") is None:
        raise ValueError("Compression needs constriction, which is not installed: `pip install constriction`.")


def _family() -> Any:
    import constriction

    return constriction.stream.model.Categorical(perfect=False)


class BitStack:
    """A stack of symbols: what was pushed last is popped first. Popping symbols nobody pushed draws them at random.

    Args:
        content: bytes of `to_bytes`, to decode; None for an empty stack, which takes initial bits whenever symbols are
            drawn and it holds too few.
        is_drawn_from: whether symbols that nobody pushed will be popped from an empty stack.

    Attributes:
        initial_bits: how many bits it has taken. They lie at the bottom, and the decoder recovers them.
    """

    def __init__(self, content: bytes | None = None, is_drawn_from: bool = False):
        import constriction

        self._coder_of, self._family = constriction.stream.stack.AnsCoder, _family()
        self._random = np.random.Philox(key=ENTROPY)
        self.initial_bits, self._is_full = 0, content is not None
        if content is None:
            # The coder's state must not be less than a word where words may be added below it later.
            self._coder = self._coder_of(self._random_words(int(is_drawn_from)), seal=True)
        else:
            padded = content + bytes(-len(content) % WORD)
            words = np.frombuffer(padded, "<u4").astype(np.uint32)
            if not len(words) or words[-1] == 0:
                raise ValueError("The payload is damaged: it does not end as a stack of symbols does.")
            self._coder = self._coder_of(words)

    @property
    def bits(self) -> int:
        """How many bits it holds."""
        return self._coder.num_valid_bits()

    def push(self, distribution: Distribution, symbols: Ints) -> None:
        for digit, frequencies in reversed(distribution.digits(symbols)):
            self.push_digits((digit, frequencies))

    def push_digits(self, digits: Digits) -> None:
        symbols, frequencies = digits
        self._coder.encode_reverse(symbols.astype(np.int32), self._family, frequencies)

    def pop(self, distribution: Distribution) -> Ints:
        return distribution.read(self.pop_digits)

    def pop_digits(self, frequencies: Frequencies) -> Ints:
        if self._is_full or self._coder.num_words() > 2 * len(frequencies) + 2:  # no symbol takes more than 24 bits
            return self._popped(self._coder, frequencies)
        while True:
            # Two words must remain: with fewer, words added below them later would change what was drawn.
            coder = self._coder.clone()
            symbols = self._popped(coder, frequencies)
            if coder.num_words() >= 2:
                self._coder = coder
                return symbols
            self._coder = self._coder_of(np.concatenate([self._random_words(1), self._coder.get_compressed()]))

    def _popped(self, coder: Any, frequencies: Frequencies) -> Ints:
        return coder.decode(self._family, frequencies).astype(np.int64)

    def _random_words(self, count: int) -> NDArray[np.uint32]:
        self.initial_bits += 8 * WORD * count
        return (self._random.random_raw(count) >> np.uint64(32)).astype(np.uint32)

    def to_bytes(self) -> bytes:
        """All of it, without the zero bytes at its end."""
        return self._coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class SymbolWriter:
    """Symbols that are written one after another, for `SymbolReader`."""

    def __init__(self) -> None:
        self.written: list[Digits] = []

    def write(self, distribution: Distribution, symbols: Ints) -> None:
        self.written.extend(distribution.digits(symbols))

    def to_bytes(self) -> bytes:
        """The shortest bytes that `SymbolReader` reads the symbols from."""
        import constriction

        encoder, family = constriction.stream.queue.RangeEncoder(), _family()
        for symbols, frequencies in self.written:
            encoder.encode(symbols.astype(np.int32), family, frequencies)
        content = encoder.get_compressed().astype(">u4").tobytes()
        return next(each for each in _shorter(content) if self._is_read_from(each))

    def _is_read_from(self, content: bytes) -> bool:
        reader = SymbolReader(content, is_whole=True)
        try:
            return all(np.array_equal(reader.read_digits(f), symbols) for symbols, f in self.written)
        except Exhausted:
            return False


def _shorter(content: bytes) -> Iterator[bytes]:
    """The bytes cut to each of the last few lengths, rounded down and up, the shortest first; at last all of them."""
    for size in range(max(0, len(content) - 2 * WORD), len(content)):
        value = int.from_bytes(content[:size], "big")
        yield content[:size]
        if value + 1 < 256**size:
            yield (value + 1).to_bytes(size, "big")
    yield content


class Exhausted(Exception):
    """The bytes end before the symbol is determined.

    Args:
        known: the symbols before it, of those that were to be read.
    """

    def __init__(self, known: Ints):
        super().__init__()
        self.known = known


class SymbolReader:
    """Reads what `SymbolWriter` wrote, also from a prefix of the bytes, as far as that determines the symbols.

    A prefix leaves the code value in an interval. The symbols at its two ends agree as long as they are determined.

    Args:
        content: the bytes, or a prefix of them.
        is_whole: whether nothing is missing.
    """

    def __init__(self, content: bytes, is_whole: bool):
        fills = (b"\0",) if is_whole else (b"\0", b"\xff")
        self._decoders = [_range_decoder(content, fill) for fill in fills]
        self._family = _family()

    def read(self, distribution: Distribution) -> Ints:
        """The next symbols.

        Raises:
            Exhausted: if they are not all determined.
        """
        return distribution.read(self.read_digits)

    def read_digits(self, frequencies: Frequencies) -> Ints:
        before = [each.clone() for each in self._decoders]
        try:
            read = [each.decode(self._family, frequencies).astype(np.int64) for each in self._decoders]
        except AssertionError:  # no symbol has this code: the fill, or damage
            read = []
        if not read or not np.array_equal(read[0], read[-1]):
            raise Exhausted(self._determined(before, frequencies))
        return read[0]

    def _determined(self, decoders: list[Any], frequencies: Frequencies) -> Ints:
        """The symbols that are determined, one after another."""
        known: list[int] = []
        for row in frequencies[:, None]:
            try:
                read = [int(each.decode(self._family, row)[0]) for each in decoders]
            except AssertionError:
                break
            if read[0] != read[-1]:
                break
            known.append(read[0])
        return np.array(known, np.int64)


def _range_decoder(content: bytes, fill: bytes) -> Any:
    import constriction

    # Two words more than there are, so that the fill reaches past the state of the decoder.
    padded = content + fill * (-len(content) % WORD + 3 * WORD)
    return constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
