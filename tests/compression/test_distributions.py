# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Integer frequencies against the normal law, and the coders that use them."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.stats

from ddpm_hf.compression import distributions
from ddpm_hf.compression.distributions import GaussianBins, Table, uniform_digits
from ddpm_hf.compression.entropy_coders import BitStack, Exhausted, SymbolReader, SymbolWriter
from ddpm_hf.compression.shared_noise import SharedNoise, _quantiles


def bits_of(written: list) -> float:
    """−log₂ P of symbols under their frequencies."""
    shares = [f[np.arange(len(s)), s] / f.sum(axis=1) for s, f in written]
    return float(-sum(np.log2(each).sum() for each in shares))


def test_no_entry_of_the_tables_is_in_doubt() -> None:
    """Nearer to a tie than 1e-14, another machine's erfc or Φ⁻¹ could round to another integer."""
    table, scale = distributions._normal_table(), 2**distributions.SCALE_BITS
    grid = np.linspace(-8, 8, len(table))
    with mpmath.workdps(40):
        for i in range(0, len(table), 97):  # exactly, at some places
            assert table[i] == int(mpmath.nint(scale * mpmath.ncdf(mpmath.mpf(float(grid[i])))))
    lower = scale * scipy.special.erfc(-grid[: len(grid) // 2] / np.sqrt(2)) / 2
    assert np.abs(lower - np.floor(lower) - 0.5).min() > 1e-14 * scale
    quantiles = scipy.special.ndtri((np.arange(2**15, 2**16) + 0.5) / 2**16) * 2.0**20
    assert np.array_equal(np.rint(quantiles), _quantiles()[2**15 :] * 2.0**20)
    assert np.abs(quantiles - np.floor(quantiles) - 0.5).min() > 1e-14 * 2**20


def test_frequencies_are_those_of_the_normal_law() -> None:
    mean, std = np.array([0.3, -7.6, 100.2]), np.array([2.0, 0.4, 60.0])
    law = GaussianBins.of(mean, std, -2000, 4001)
    for symbol in (-30, -8, -1, 0, 3, 120, 300):
        cost = bits_of(law.digits(np.full(3, symbol)))
        edges = [scipy.stats.norm.logcdf(symbol + side, mean, std) for side in (-0.5, 0.5)]
        exact = scipy.stats.norm.cdf(symbol + 0.5, mean, std) - scipy.stats.norm.cdf(symbol - 0.5, mean, std)
        likely = exact > 1e-6
        one_by_one = np.array(
            [bits_of([(s[i : i + 1], f[i : i + 1]) for s, f in law.digits(np.full(3, symbol))]) for i in range(3)]
        )
        assert np.allclose(one_by_one[likely], -np.log2(exact[likely]), rtol=2e-3, atol=1e-3), (symbol, edges, cost)
        assert (one_by_one < 45).all()  # even the least likely value can be coded


def test_a_value_outside_the_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="outside the range"):
        GaussianBins.of(np.zeros(1), np.ones(1), -4, 9).digits(np.array([5]))


@pytest.mark.parametrize("bits", [0, 1, 6, 7, 13])
def test_digits_of_uniform_numbers_have_as_many_bits(bits: int) -> None:
    assert np.prod([each.size for each in uniform_digits(bits)], initial=1) == 2**bits


def some_symbols() -> tuple[GaussianBins, np.ndarray, Table, np.ndarray]:
    rng = np.random.default_rng(0)
    mean = rng.normal(size=50) * 30
    law = GaussianBins.of(mean, np.full(50, 3.7), -640, 1281)
    levels = Table.of_probabilities(rng.dirichlet(np.ones(17), size=40))
    return law, np.rint(mean + 3.7 * rng.normal(size=50)).astype(np.int64), levels, rng.integers(0, 17, 40)


def test_a_queue_returns_what_was_written_in_as_few_bytes_as_there_are() -> None:
    law, places, levels, some = some_symbols()
    writer = SymbolWriter()
    writer.write(law, places)
    writer.write(levels, some)
    content, ideal = writer.to_bytes(), bits_of(writer.written)
    reader = SymbolReader(content, is_whole=True)
    assert np.array_equal(reader.read(law), places) and np.array_equal(reader.read(levels), some)
    assert ideal - 8 < 8 * len(content) < ideal + 12


def test_a_prefix_of_a_queue_gives_the_first_symbols_and_never_wrong_ones() -> None:
    *_, levels, some = some_symbols()
    writer = SymbolWriter()
    writer.write(levels, some)
    content, known = writer.to_bytes(), []
    for size in range(len(content)):
        try:
            found = SymbolReader(content[:size], is_whole=False).read(levels)
        except Exhausted as end:
            found = end.known
        assert np.array_equal(found, some[: len(found)])
        known.append(len(found))
    assert known == sorted(known) and known[0] == 0 and known[-1] > 30


def test_a_stack_draws_symbols_and_gets_their_bits_back() -> None:
    law, _, levels, some = some_symbols()
    stack = BitStack(is_drawn_from=True)
    stack.push(levels, some)
    drawn = stack.pop(law)
    assert abs(((drawn - law.mean / 2**12) / 3.7).std() - 1) < 0.3
    stack.push(law, drawn)
    again = BitStack(stack.to_bytes())
    assert np.array_equal(again.pop(law), drawn)
    again.push(law, drawn)
    assert np.array_equal(again.pop(levels), some)
    assert again.bits == stack.initial_bits > 0


def test_a_stack_takes_no_more_initial_bits_than_it_needs() -> None:
    law, *_ = some_symbols()
    stack = BitStack(is_drawn_from=True)
    drawn = stack.pop(law)
    assert bits_of(law.digits(drawn)) < stack.initial_bits < bits_of(law.digits(drawn)) + 96


def test_shared_noise_is_normal_and_found_from_any_place() -> None:
    noise = SharedNoise(7, 3)
    z = noise.normals(5, 2, 0, 200_000)
    assert scipy.stats.kstest(z.numpy(), "norm").pvalue > 0.01
    assert noise.normals(5, 2, 12_345, 77).equal(z[12_345 : 12_345 + 77])
    others = [SharedNoise(8, 3).normals(5, 2, 0, 9), noise.normals(5, 1, 0, 9), noise.normals(4, 2, 0, 9)]
    assert not any(each.equal(z[:9]) for each in others)
