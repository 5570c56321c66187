"""Mini-batches: every cell in every epoch, dense one batch at a time."""

import math

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from vaexprs.data.backed import BackedMatrix, stamp_of
from vaexprs.data.demo import demo_cells
from vaexprs.io.stores import open_store
from vaexprs.nn import batches as batches_
from vaexprs.nn.batches import LANES, CellBatches, as_inputs, from_inputs

N = 10
both_kinds = pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])


@pytest.fixture(scope="module")
def x():
    """Ten cells whose first value is their row number."""
    values = np.random.default_rng(0).poisson(1.0, (N, 5)).astype(np.float32)
    values[:, 0] = np.arange(N)
    return values


def batches(x, codes=None, *, batch_size=4, shuffle=True, seed=0, **more):
    return CellBatches(x, codes, batch_size=batch_size, shuffle=shuffle, seed=seed, **more)


def epoch(data):
    """Rows in the order of one epoch, after which the next begins."""
    rows = np.concatenate([data[i][0][:, 0] for i in range(len(data))]).astype(int)
    data.epoch += 1
    return rows.tolist()


def test_every_cell_comes_in_every_epoch(x):
    data = batches(x)
    for _ in range(3):
        rows = epoch(data)
        assert sorted(rows[:N]) == list(range(N))
        assert rows[N:] == rows[:2]  # three batches of four


def test_order_is_shuffled_from_the_first_epoch_and_changes_with_each(x):
    data = batches(x)
    orders = [list(range(N)), *(epoch(data) for _ in range(4))]
    assert len({tuple(order) for order in orders}) == 5


def test_order_stays_within_an_epoch(x):
    data = batches(x)
    np.testing.assert_array_equal(data[1][0], data[1][0])


def test_same_seed_gives_the_same_orders_and_another_seed_others(x):
    first, again, other = batches(x, seed=1), batches(x, seed=1), batches(x, seed=2)
    orders = [[epoch(data) for _ in range(3)] for data in (first, again, other)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_without_shuffling_the_order_is_that_of_the_rows(x):
    data = batches(x, shuffle=False)
    assert [epoch(data), epoch(data)] == [list(range(N))] * 2


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (64, [10]), (1, [1] * 10), (9, [9, 1])]
)
def test_last_batch_holds_what_is_left_or_is_filled_up(x, batch_size, sizes):
    data = batches(x, batch_size=batch_size, shuffle=False)
    assert [len(data[i][0]) for i in range(len(data))] == sizes
    shuffled = batches(x, batch_size=batch_size)
    assert [len(shuffled[i][0]) for i in range(len(shuffled))] == [sizes[0]] * len(sizes)


def test_sparse_batches_are_the_dense_ones_as_arrays(x):
    dense, sparse = batches(x, seed=3), batches(sp.csr_matrix(x), seed=3)
    assert len(dense) == len(sparse) == 3
    for i in range(3):
        assert isinstance(sparse[i][0], np.ndarray)
        np.testing.assert_array_equal(sparse[i][0], dense[i][0])


def test_real_sparse_cells_come_whole_and_in_float32():
    cells = demo_cells().X
    data = batches(cells, batch_size=128, shuffle=False)
    blocks = [data[i][0] for i in range(len(data))]
    assert [len(block) for block in blocks] == [128] * 5 + [60]
    assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(np.concatenate(blocks), cells.toarray())


def test_codes_and_weights_stay_with_their_cells(x):
    codes, weight = np.eye(N, dtype=np.float32), np.arange(N) / 8
    data = batches(x, codes, sample_weight=weight)
    for _ in range(2):
        for i in range(len(data)):
            (cells, code), target, weights = data[i]
            assert target is None
            np.testing.assert_array_equal(code.argmax(axis=1), cells[:, 0])
            np.testing.assert_array_equal(weights, cells[:, 0] / 8)
        data.epoch += 1


def test_batch_without_codes_and_weights_is_the_cells_alone(x):
    batch = batches(x)[0]
    assert len(batch) == 1
    assert batch[0].shape == (4, 5)


def test_batch_with_codes_alone_has_no_weights(x):
    (inputs,) = batches(x, np.eye(N))[0]
    assert [part.shape for part in inputs] == [(4, 5), (4, N)]


def dense(cells, n_genes):
    """The counts of a sparse batch by its cells, and by its genes, (n_cells, n_genes)."""
    n = len(cells.library)
    by_cell = sp.csr_matrix((cells.count, cells.gene, cells.start), (n, n_genes))
    by_gene = sp.csr_matrix((cells.count[cells.order], cells.cell[cells.order], cells.gene_start)).T
    np.testing.assert_array_equal(by_cell.toarray(), by_gene.toarray()[:n, :n_genes])
    np.testing.assert_array_equal(np.repeat(np.arange(n), np.diff(cells.start)), cells.cell)
    np.testing.assert_allclose(by_cell.sum(axis=1).A1, cells.library, rtol=1e-6)
    np.testing.assert_array_equal((by_cell > 0).sum(axis=1).A1, cells.detected)
    return by_cell.toarray()


@both_kinds
@pytest.mark.parametrize("width", [0, 3])
def test_sparse_batches_have_the_counts_of_the_dense_ones(kind, width):
    x = kind(sp.random(200, 50, 0.1, random_state=0, dtype=np.float32).toarray())
    codes = np.ones((200, width), np.float32) if width else None
    plain, sparse = (batches(x, codes, batch_size=20, sparse=given) for given in (False, True))
    for step in range(len(plain)):
        expected, got = (from_inputs(data[step][0])[0] for data in (plain, sparse))
        np.testing.assert_array_equal(dense(got, 50), expected)
        assert got.count.shape == from_inputs(sparse[0][0])[0].count.shape
        assert got.gene_start.tolist()[50:] == [np.count_nonzero(expected)] * (1 + width)


def test_counts_of_unusual_batches_all_have_a_place(monkeypatch):
    monkeypatch.setattr(batches_, "ROOM_UNIT", 1)
    x = np.zeros((40, 50), np.float32)
    x[1::2, :20] = 1
    data = batches(x, batch_size=20, shuffle=False, sparse=True)
    data._room = 10
    (cells,) = data[0]
    np.testing.assert_array_equal(dense(cells, 50), x[:20])


def test_stored_zeros_and_repeated_entries_are_the_values_that_they_mean():
    x = sp.csr_matrix(([1, 0, 2, 3], [4, 2, 3, 3], [0, 2, 4]), (2, 9), np.float32)
    (cells,) = batches(x, batch_size=2, shuffle=False, sparse=True)[0]
    np.testing.assert_array_equal(dense(cells, 9), x.toarray())
    assert cells.detected.tolist() == [1, 1]
    assert x.nnz == 4  # as they were


def test_values_that_are_seldom_zero_are_dense_batches():
    (cells,) = batches(np.ones((40, 50), np.float32), batch_size=20, sparse=True)[0]
    assert cells.shape == (20, 50)


def test_inputs_are_a_pair_only_with_codes(x):
    codes = np.ones((N, 2))
    assert as_inputs(x, None) is x
    first, second = as_inputs(x, codes)
    assert first is x
    assert second is codes


# ---- from disk

WIDTH = 3
ROW_BYTES = 4 * WIDTH


class Recorded:
    """A matrix on disk that writes down which rows are asked of it."""

    def __init__(self, source):
        self.source, self.shape, self.name, self.read = source, source.shape, source.name, []

    def __getitem__(self, rows):
        self.read.append((rows.start, rows.stop))
        return self.source[rows]

    def rows(self):
        return {row for first, stop in self.read for row in range(first, stop)}


@pytest.fixture
def on_disk(tmp_path):
    """Return a maker of n cells on disk whose first value is their row number."""

    def make(n, kept=None):
        values = np.zeros((n, WIDTH), np.float32)
        values[:, 0] = np.arange(n)
        path = tmp_path / f"{n}.h5ad"
        if not path.exists():
            ad.AnnData(values).write_h5ad(path)
        return BackedMatrix(Recorded(open_store(path).group["X"]), path, stamp_of(path), kept)

    return make


@pytest.fixture
def buffer_of(monkeypatch):
    """Return what sets how many cells are in memory at a time."""
    return lambda cells: monkeypatch.setattr(batches_, "BUFFER_BYTES", cells * ROW_BYTES)


@pytest.mark.parametrize("buffer", [1, 100, 200, 1_000, 100_000])
@pytest.mark.parametrize(
    ("n", "batch_size"),
    [
        (1_000, 32),
        (1_000, 128),
        (1_001, 16),
        (1_023, 48),
        (1_025, 64),  # a lane of one cell more
        (1_024, 64),
        (17, 16),
        (16, 16),
        (333, 7),  # one lane
        (997, 100),  # four lanes
        (64, 64),
        (5, 1),
        (150, 1_000),  # more than there are
    ],
)
def test_every_cell_comes_from_disk_in_every_epoch(on_disk, buffer_of, n, batch_size, buffer):
    buffer_of(buffer)
    data = batches(on_disk(n), batch_size=batch_size)
    size = min(batch_size, n)
    lanes = math.gcd(LANES, size)
    for _ in range(3):
        assert {len(data[i][0]) for i in (0, len(data) - 1)} == {size}
        rows = epoch(data)
        assert set(rows) == set(range(n))
        assert len(rows) - n < size + lanes  # the last batch is filled up, and a lane may have one more


def test_cells_that_come_twice_come_in_the_last_window_only(on_disk, buffer_of):
    buffer_of(200)
    data = batches(on_disk(1_000), batch_size=16)
    steps = len(data) - data._cells.window
    rows = np.concatenate([data[i][0][:, 0] for i in range(steps)])
    assert len(set(rows)) == len(rows) == steps * 16


def test_orders_from_disk_are_those_of_seed_and_epoch(on_disk, buffer_of):
    buffer_of(200)
    x = on_disk(500)
    first, again, other = (batches(x, batch_size=16, seed=seed) for seed in (1, 1, 2))
    orders = [[epoch(data) for _ in range(3)] for data in (first, again, other)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert len({tuple(order) for order in orders[0]}) == 3
    again.epoch = 1
    assert again[7][0][:, 0].tolist() == orders[0][1][7 * 16 : 8 * 16]  # whatever came before
    again.epoch = 0
    assert again[30][0][:, 0].tolist() == orders[0][0][30 * 16 : 31 * 16]


def test_each_batch_has_as_many_cells_of_each_part_of_the_file(on_disk, buffer_of):
    buffer_of(320)
    data = batches(on_disk(1_600), batch_size=32)
    for i in range(len(data)):
        lanes = np.bincount(data[i][0][:, 0].astype(int) // 100, minlength=16)
        assert lanes.tolist() == [2] * 16


@pytest.mark.parametrize("batch_size", [37, 100])
def test_batches_with_few_lanes_have_cells_from_many_places(on_disk, buffer_of, batch_size):
    buffer_of(8_000)
    data = batches(on_disk(40_000), batch_size=batch_size)
    for i in (0, 100, 200):
        tenths = np.bincount(data[i][0][:, 0].astype(int) // 4_000, minlength=10)
        assert (tenths > 0).sum() >= 8  # a batch of a full shuffle has 9.8 (37) and 10.0 (100) of the ten


@pytest.mark.parametrize(("processes", "batch_size"), [(2, 32), (4, 32), (2, 48), (4, 16), (4, 4)])
def test_shares_are_together_the_batches_of_one_process(on_disk, buffer_of, processes, batch_size):
    buffer_of(150)
    for n in (640, 701):
        one = batches(on_disk(n), batch_size=batch_size)
        shares = [batches(on_disk(n), batch_size=batch_size, share=(i, processes)) for i in range(processes)]
        assert {len(share) for share in shares} == {len(one)}
        for number in (0, 1):
            for data in (one, *shares):
                data.epoch = number
            for i in range(len(one)):
                parts = [share[i][0] for share in shares]
                assert {len(part) for part in parts} == {batch_size // processes}
                np.testing.assert_array_equal(np.concatenate(parts), one[i][0])


@pytest.mark.parametrize("batch_size", [12, 48, 96])
def test_three_processes_have_all_cells_between_them(on_disk, buffer_of, batch_size):
    buffer_of(150)
    shares = [batches(on_disk(500), batch_size=batch_size, share=(i, 3)) for i in range(3)]
    assert set().union(*(epoch(share) for share in shares)) == set(range(500))


def test_a_process_reads_the_rows_of_its_lanes_only(on_disk, buffer_of):
    buffer_of(150)
    for part, rows in ((0, range(160)), (3, range(480, 640))):
        x = on_disk(640)
        data = batches(x, batch_size=32, share=(part, 4))
        assert set(epoch(data)) == set(rows)
        data._cells._reader.shutdown()
        assert x.source.rows() == set(rows)


def test_what_is_in_memory_is_bounded_by_the_buffer(on_disk, buffer_of):
    buffer_of(200)
    x = on_disk(3_000)
    data = batches(x, batch_size=32)
    for i in range(len(data)):
        data[i]
        held = [len(future.result()[0]) for future in data._cells._ahead.values()]
        assert len(held) == 2
        assert max(held) <= 200
    assert max(stop - first for first, stop in x.source.read) <= 200


def test_batches_must_be_shared_evenly(on_disk):
    with pytest.raises(
        ValueError,
        match=r"batch_size.*\b4 processes.*\b34\b",
    ):
        batches(on_disk(640), batch_size=34, share=(1, 4))


def test_batches_contain_kept_rows_only(on_disk, buffer_of):
    buffer_of(100)
    kept = np.flatnonzero(np.arange(700) % 7 != 3)
    data = batches(on_disk(700, kept), batch_size=32)
    for _ in range(2):
        assert set(epoch(data)) == set(kept)


def test_codes_and_weights_stay_with_their_cells_from_disk(on_disk, buffer_of):
    buffer_of(100)
    n = 150
    data = batches(on_disk(n), np.eye(n, dtype=np.float32), batch_size=16, sample_weight=np.arange(n) / 8)
    for i in range(len(data)):
        (cells, code), _, weights = data[i]
        np.testing.assert_array_equal(code.argmax(axis=1), cells[:, 0])
        np.testing.assert_array_equal(weights, cells[:, 0] / 8)


def test_without_shuffling_the_order_on_disk_is_that_of_the_rows(on_disk):
    data = batches(on_disk(70), batch_size=16, shuffle=False)
    assert epoch(data) == list(range(70))
    kept = np.arange(0, 70, 3)
    assert epoch(batches(on_disk(70, kept), batch_size=16, shuffle=False)) == kept.tolist()


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_nothing_is_read_for_steps_passed_over(on_disk, buffer_of, where):
    buffer_of(100)
    x = on_disk(500)
    given = x if where == "disk" else x[:]
    x.source.read.clear()
    whole, rest = (batches(given, batch_size=16) for _ in range(2))
    rest.passed_over = (1, 20)
    alike = [rest[i][0] for i in range(len(rest))]
    rest.epoch = whole.epoch = 1
    alike += [rest[i][0] for i in range(20)]
    assert all((part == alike[0]).all() for part in alike)
    if where == "disk":
        rest._cells._reader.submit(len, "").result()  # what is read ahead is read
        read = {row for first, stop in x.source.read for row in range(first, stop)}
        assert len(read) < 250
    for i in range(20, len(rest)):
        np.testing.assert_array_equal(rest[i][0], whole[i][0])


def test_sparse_cells_from_disk_are_those_in_memory(tmp_path, buffer_of):
    cells = demo_cells()
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    buffer_of(50_000)
    x = BackedMatrix(ad.io.sparse_dataset(open_store(path).group["X"]), path, stamp_of(path))
    data = batches(x, batch_size=64)
    got = np.concatenate([data[i][0] for i in range(len(data))])
    assert got.dtype == np.float32
    assert len(data._cells.lanes) == 16
    assert data._cells.window < len(data)
    wanted = {row.tobytes() for row in cells.X.toarray().astype(np.float32)}
    assert {row.tobytes() for row in got} == wanted
