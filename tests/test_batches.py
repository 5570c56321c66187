"""Mini-batches: every cell in every epoch, dense one batch at a time."""

import numpy as np
import pytest
import scipy.sparse as sp

from vaexprs.batches import CellBatches, as_inputs
from vaexprs.demo import demo_cells

N = 10


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


def test_inputs_are_a_pair_only_with_codes(x):
    codes = np.ones((N, 2))
    assert as_inputs(x, None) is x
    first, second = as_inputs(x, codes)
    assert first is x
    assert second is codes
