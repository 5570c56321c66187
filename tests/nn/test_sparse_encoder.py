"""Networks applied to sparse counts: the same losses and gradients as for dense ones."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import scipy.sparse as sp

from vaexprs.data.matrix import compressed
from vaexprs.data.sparse_batch import sparse_batch
from vaexprs.likelihoods.negative_binomial import NegativeBinomial
from vaexprs.nn import sparse_encoder
from vaexprs.nn.batches import as_inputs, from_inputs
from vaexprs.nn.build import build_vae
from vaexprs.nn.sparse_encoder import dense_counts
from vaexprs.preprocessing.summary import Summary

GENES = 60
X = sp.random(40, GENES, 0.1, random_state=0, data_rvs=lambda n: 1 + np.arange(n) % 7).toarray()
X = (X + np.eye(40, GENES)).astype(np.float32)  # no empty cells
X[3, 5] = 5_000  # beyond the limit of normalised values
Dense = keras.layers.Dense


def vae(encoder=None, decoder=None, level_cells=(), n_basis=0):
    model = build_vae(
        encoder,
        decoder,
        likelihood=NegativeBinomial(),
        x=X,
        summary=Summary.of(X),
        level_cells=level_cells,
        latent_dim=3,
        regularization=1.0,
        seed=0,
        n_basis=n_basis,
    )
    rng = np.random.default_rng(3)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.1, weight.shape))
    return model


def sparse(width, spare=50):
    counts = compressed(X.copy())
    return sparse_batch(counts, counts.nnz + spare, width)


def loss_and_gradients(model, cells, codes):
    inputs = jax.tree.map(jnp.asarray, as_inputs(cells, codes))

    def loss(weights):
        fixed = [weight.value for weight in model.non_trainable_variables]
        output, _, penalties = model.stateless_call(weights, fixed, inputs, return_losses=True)
        return model.losses_of(from_inputs(inputs)[0], output)[2].sum() + sum(penalties)

    return jax.jit(jax.value_and_grad(loss))([weight.value for weight in model.trainable_variables])


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        (None, None),
        (None, [Dense(5, "relu")]),
        ([Dense(9, "tanh", use_bias=False), Dense(4)], None),
        ([keras.layers.LayerNormalization(), Dense(9)], None),
        ([Dense(9, activity_regularizer="l2")], None),
        ([], None),
    ],
    ids=["default", "decoder", "no bias", "other first layer", "activity", "none"],
)
@pytest.mark.parametrize(("level_cells", "n_basis"), [((), 0), ((20, 20), 0), ((20, 20), 3)])
@pytest.mark.parametrize("product", [True, False])
def test_losses_and_gradients_are_those_of_dense_counts(
    monkeypatch, encoder, decoder, level_cells, n_basis, product
):
    monkeypatch.setattr(sparse_encoder, "MAX_DENSITY", 1.0 if product else 0.0)
    model = vae(encoder, decoder, level_cells, n_basis)
    width = len(level_cells) + n_basis
    codes = np.random.default_rng(1).random((40, width)).astype(np.float32) if width else None
    expected, of_dense = loss_and_gradients(model, X, codes)
    got, of_sparse = loss_and_gradients(model, sparse(width), codes)
    assert float(got) == pytest.approx(float(expected), rel=1e-5)
    for weight, one, other in zip(model.trainable_variables, of_sparse, of_dense, strict=True):
        largest = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * largest, err_msg=weight.path)


def test_counts_can_be_made_dense():
    np.testing.assert_array_equal(dense_counts(sparse(0), GENES), X)
