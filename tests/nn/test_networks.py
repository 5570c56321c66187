"""Layers rebuilt, the reparameterisation, the loss."""

import random

import keras
import numpy as np
import pytest

from vaexprs.likelihoods.bernoulli import Bernoulli
from vaexprs.likelihoods.gaussian import Gaussian
from vaexprs.likelihoods.negative_binomial import NegativeBinomial
from vaexprs.likelihoods.poisson import Poisson
from vaexprs.likelihoods.zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial
from vaexprs.nn.build import build_vae
from vaexprs.nn.layers import Normalize, Sampling
from vaexprs.nn.predict import predict
from vaexprs.preprocessing.summary import Summary

X = np.random.default_rng(0).poisson(2.0, (40, 7)).astype(np.float32)


def vae(encoder=None, decoder=None, *, likelihood=None, x=X, **kwargs):
    settings = {"latent_dim": 3, "regularization": 1.0, "seed": 0, "level_cells": []} | kwargs
    return build_vae(
        encoder, decoder, likelihood=likelihood or NegativeBinomial(), x=x, summary=Summary.of(x), **settings
    )


def test_noise_differs_between_cells_and_between_dimensions():
    mean, log_stddev = np.zeros((500, 4), np.float32), np.full((500, 4), np.log(2), np.float32)
    noise = np.asarray(Sampling(0)([mean, log_stddev], training=True))
    assert len(np.unique(noise)) == noise.size
    assert noise.std() == pytest.approx(2, rel=0.05)
    assert np.abs(np.corrcoef(noise.T) - np.eye(4)).max() < 0.2


def test_noise_is_new_in_training_and_repeats_outside():
    layer, at_zero = Sampling(0), [np.zeros((5, 2), np.float32)] * 2
    draws = [np.asarray(layer(at_zero, training=training)) for training in (True, True, False, False)]
    assert not np.array_equal(draws[0], draws[1])
    assert np.array_equal(draws[2], draws[3])


@pytest.mark.parametrize("regularization", [0.0, 1.0, 3.0])
def test_loss_is_reconstruction_plus_weighted_kl_both_summed(regularization):
    """Against the formula in NumPy: KL = -1/2 sum(1 + 2 s - m^2 - exp(2 s)) with s a log sd."""
    model = vae(
        likelihood=Bernoulli(),
        decoder=[keras.layers.Dense(7, "sigmoid")],
        x=X / 9,
        regularization=regularization,
    )
    model.get_layer("z_log_stddev").bias.assign([-0.3, 0.1, 0.4])
    out = {name: np.asarray(value, np.float64) for name, value in model(X / 9).items()}
    m, s, p = out["z_mean"], out["z_log_stddev"], out["output"]
    kl = -0.5 * (1 + 2 * s - m**2 - np.exp(2 * s)).sum(axis=1)
    entropy = -(X / 9 * np.log(p) + (1 - X / 9) * np.log(1 - p)).sum(axis=1)
    model.compile()
    got = float(model.compute_loss(x=X / 9, y_pred=model(X / 9)))
    assert got == pytest.approx((entropy + regularization * kl).mean(), rel=1e-5)
    assert float(model.reconstruction_tracker.result()) == pytest.approx(entropy.mean(), rel=1e-5)
    assert float(model.kl_tracker.result()) == pytest.approx(kl.mean(), rel=1e-5)


def test_sample_weights_weigh_cells():
    model = vae()
    model.compile()
    out, weight = model(X), np.zeros(len(X), np.float32)
    weight[:10] = 1
    first = float(model.compute_loss(x=X[:10], y_pred=keras.tree.map_structure(lambda v: v[:10], out)))
    assert float(model.compute_loss(x=X, y_pred=out, sample_weight=weight)) == pytest.approx(
        first * 10 / len(X), rel=1e-5
    )


def test_the_users_regularisers_are_in_the_loss():
    plain = vae([keras.layers.Dense(4, name="a")])
    held = vae([keras.layers.Dense(4, name="a", kernel_regularizer=keras.regularizers.L2(10.0))])
    losses = []
    for model in (plain, held):
        model.compile()
        losses.append(float(model.compute_loss(x=X, y_pred=model(X))))
    kernel = np.asarray(held.get_layer("a").kernel)
    assert losses[1] - losses[0] == pytest.approx(10 * (kernel**2).sum(), rel=1e-3)


def test_layers_are_rebuilt_and_share_nothing():
    layers = [keras.layers.Dense(5, "relu", name="mine"), keras.layers.Dropout(0.1)]
    model = vae(layers, layers)
    names = [layer.name for layer in model.layers]
    assert "mine" in names
    assert "mine_1" in names
    assert len(names) == len(set(names))
    assert not layers[0].built
    first, second = model.get_layer("mine").kernel, model.get_layer("mine_1").kernel
    assert first.shape == (7, 5)
    assert second.shape == (3, 5)


def test_reserved_names_are_not_taken_by_user_layers():
    model = vae([keras.layers.Dense(5, name="z_mean")])
    assert model.get_layer("z_mean").units == 3
    assert model.get_layer("z_mean_1").units == 5


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    """A layer of the user's own."""

    def __init__(self, by=2.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def call(self, x):
        return x * self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by}


def test_any_layers_make_a_model():
    layers = [
        keras.layers.Dense(6),
        keras.layers.BatchNormalization(),
        keras.layers.LayerNormalization(),
        keras.layers.Activation("elu"),
        keras.layers.LeakyReLU(),
        keras.layers.Dropout(0.2),
        Scaled(3.0),
    ]
    model = vae([keras.Input((7,)), *layers], layers, level_cells=[20, 20])
    out = model([X, np.eye(2, dtype=np.float32)[np.arange(40) % 2]])
    assert out["output"]["proportion"].shape == (40, 7)
    assert [layer.by for layer in model.layers if isinstance(layer, Scaled)] == [3.0, 3.0]


def test_same_seed_same_weights_and_python_generator_is_left_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    one, two, other = (vae(seed=seed) for seed in (1, 1, 2))
    assert random.random() == expected
    for a, b, c in zip(one.get_weights(), two.get_weights(), other.get_weights(), strict=True):
        assert np.array_equal(a, b)
        assert a.shape == c.shape
    assert not np.array_equal(one.get_layer("encoder_1").kernel, other.get_layer("encoder_1").kernel)


def test_normalize_gives_log_counts_per_ten_thousand_centred_and_clipped():
    x = np.random.default_rng(1).poisson(3.0, (200, 5)).astype(np.float32) + 1
    layer = Normalize(counts=True)
    layer.build(x.shape)
    layer.start(x, Summary.of(x))
    logs = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    expected = (logs - logs.mean(axis=0)) / logs.std(axis=0)
    np.testing.assert_allclose(np.asarray(layer(x)), expected, rtol=1e-3, atol=1e-3)
    assert np.abs(np.asarray(layer(np.array([[1e6, 0, 0, 0, 0]], np.float32)))).max() == 10


def test_predictions_do_not_depend_on_the_batch():
    model = vae()
    whole, parts = (predict(model.encoder(), X, None, batch_size=size)[0] for size in (64, 64))
    assert np.array_equal(whole, parts)
    alone = predict(model.encoder(), X[3:4], None, batch_size=64)[0]
    assert np.array_equal(whole[3:4], alone)


@pytest.mark.parametrize(
    ("encoder", "decoder", "words"),
    [
        ([keras.Input((8,)), keras.layers.Dense(4)], None, r"encoder_layers.*shape.*\(7,\).*\(8,\)"),
        ([keras.layers.Reshape((7, 1))], None, r"encoder_layers.*keras\.layers\.Flatten"),
        ([keras.layers.Reshape((3, 3))], None, r"encoder_layers.*'reshape"),
        (
            [keras.layers.Lambda(lambda v: v)],
            None,
            r"encoder_layers.*Lambda",
        ),
        (
            None,
            [keras.layers.Lambda(lambda v: v)],
            r"decoder_layers.*Lambda",
        ),
    ],
)
def test_layers_that_do_not_fit(encoder, decoder, words):
    with pytest.raises(ValueError, match=words):
        vae(encoder, decoder)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (keras.layers.Dense(3), r"encoder_layers.*\blist\b.*Keras layers.*\bDense\b"),
        (["relu"], r"encoder_layers.*Keras layers.*\bstr\b.*'relu'"),
    ],
)
def test_objects_that_are_not_layers(layers, words):
    with pytest.raises(TypeError, match=words):
        vae(layers)


def test_a_layer_that_cannot_be_rebuilt():
    class Stubborn(keras.layers.Layer):
        def __init__(self, size):
            super().__init__()

    with pytest.raises(
        ValueError,
        match=r"configuration.*\bStubborn\b.*argument .trainable.*\bget_config\b",
    ):
        vae([Stubborn(3)])


def test_the_output_layer_must_be_as_wide_as_the_genes():
    with pytest.raises(ValueError, match=r"units.*genes.*\b7\b.*\b6\b"):
        vae(likelihood=Bernoulli(), decoder=[keras.layers.Dense(6, "sigmoid")])


@pytest.mark.parametrize(
    ("decoder", "likelihood", "expected"),
    [
        (None, NegativeBinomial(), 3),  # conditions only add to genes
        ([], NegativeBinomial(), 3),
        ([keras.layers.Dense(5, "relu")], NegativeBinomial(), 3 + 2),
        (None, Bernoulli(), 3 + 2),  # its last layer is not one of ours
    ],
)
def test_where_the_conditions_enter_the_decoder(decoder, likelihood, expected):
    x = np.minimum(X, 1) if likelihood.name == "bernoulli" else X
    model = vae(None, decoder, likelihood=likelihood, x=x, level_cells=[20, 20])
    assert model.get_layer(model.decoder_layers[0]).kernel.shape[0] == expected
    z = np.zeros((2, 3), np.float32)
    head = model.get_layer("output")
    if hasattr(head, "effect"):
        head.effect.assign(np.stack([np.arange(7.0), np.arange(7.0)[::-1]]) / 10)
    output = model.decoder()([z, np.eye(2, dtype=np.float32)])
    output = np.asarray(output["proportion"] if isinstance(output, dict) else output)
    assert np.abs(output[0] - output[1]).max() > 1e-4


def test_a_posterior_is_never_much_wider_than_the_prior():
    model = vae()
    layer = model.get_layer("z_log_stddev")
    layer.bias.assign(np.full(layer.bias.shape, 30.0))
    output = model.predict_on_batch(X)
    np.testing.assert_array_equal(output["z_log_stddev"], 2.0)
    assert np.isfinite(output["output"]["proportion"]).all()


@pytest.mark.parametrize(
    "likelihood",
    [NegativeBinomial(), ZeroInflatedNegativeBinomial(), Poisson(), Gaussian(zeros=True)],
    ids=lambda likelihood: likelihood.name,
)
@pytest.mark.parametrize("level_cells", [[], [20, 20]])
def test_a_linear_decoder_is_computed_as_one_layer(likelihood, level_cells):
    """The graph, which has the layers one by one, gives the outputs of the model, and of the folded decoder."""
    model = vae(likelihood=likelihood, level_cells=level_cells)
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0.2, 0.3, weight.shape) for weight in model.weights])
    codes = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    inputs = [X, codes] if level_cells else X
    graph = keras.Model(model.input, model.output)
    assert_close(model(inputs), graph(inputs))
    z = rng.normal(size=(40, 3)).astype(np.float32)
    at = [z, codes] if level_cells else z
    folded = model.folded_decoder()
    assert len(folded.layers) < len(model.decoder().layers)
    assert_close(folded(at), model.decoder()(at))


def test_a_decoder_that_is_not_linear_is_not_folded():
    for decoder in ([keras.layers.Dense(5, "relu")], [keras.layers.Dense(5), keras.layers.Dropout(0.5)], []):
        model = vae(None, decoder)
        z = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
        assert len(model.folded_decoder().layers) == len(model.decoder().layers)
        assert_close(model.folded_decoder()(z), model.decoder()(z))
        assert_close(model(X), keras.Model(model.input, model.output)(X))


def assert_close(got, expected):
    """Compare the outputs of two networks."""
    keras.tree.assert_same_structure(got, expected)
    for one, other in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
