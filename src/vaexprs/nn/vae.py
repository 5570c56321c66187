"""The variational autoencoder: loss, training step and decoding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from vaexprs.data.sparse_batch import SparseBatch
from vaexprs.likelihoods import LIKELIHOODS
from vaexprs.likelihoods.base import Head, Likelihood, Linear
from vaexprs.nn.batches import as_inputs, from_inputs
from vaexprs.nn.compilation import several_steps
from vaexprs.nn.layers import call_layer, join
from vaexprs.nn.predict import predict

NOISE_CELLS = 64  # cells per condition, and batch size, to estimate the variance of total counts
NOISE_DRAWS = 512  # sampled totals per condition


@keras.saving.register_keras_serializable("vaexprs")
class VAE(keras.Model):
    r"""A functional Keras model trained on the negative evidence lower bound.

    .. math:: -\log p(x \mid z) + \lambda\,\mathrm{KL}(q(z \mid x) \,\|\, N(0, I)), \quad
              \mathrm{KL} = -\tfrac12 \sum_j (1 + 2 s_j - m_j^2 - e^{2 s_j})

    with the mean m and the log standard deviation s of q. Both terms are summed over genes or latent
    dimensions and averaged over cells. They are logged as ``reconstruction`` and ``kl`` in addition to
    ``loss``.

    Parameters
    ----------
    inputs, outputs
        Inputs and outputs of the graph; the outputs are a dict of ``output`` (the parameters of the
        likelihood), ``z_mean`` and ``z_log_stddev``.
    likelihood
        The likelihood of the prepared values.
    regularization
        Weight of the KL divergence.
    decoder_layers
        Names of the decoder's layers, in order.
    joined
        Whether the first of these receives the conditions concatenated to z; a head receives them anyway.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        *,
        likelihood: Likelihood,
        regularization: float,
        decoder_layers: Sequence[str],
        joined: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.likelihood = likelihood
        self.regularization = regularization
        self.decoder_layers = tuple(decoder_layers)
        self.joined = joined
        self.reconstruction_tracker = keras.metrics.Mean(name="reconstruction")
        self.kl_tracker = keras.metrics.Mean(name="kl")
        self.interrupted = False  # whether Ctrl-C ended the training early
        self.diverged = ""  # message if training ended with a non-finite loss
        self.steps_done = 0  # steps of the first epoch that were done before the fit was resumed

    @property
    def latent_dim(self) -> int:
        """Size of the latent vector."""
        return int(self.get_layer("latent").output.shape[-1])

    @cached_property
    def _folds(self) -> bool:
        """Whether the decoder is a linear layer and a head, which can be computed as one."""
        first, last = self.get_layer(self.decoder_layers[0]), self.get_layer(self.decoder_layers[-1])
        return (
            len(self.decoder_layers) == 2
            and isinstance(last, Head)
            and type(first) is keras.layers.Dense
            and first.activation is keras.activations.linear
            and first.use_bias
            and first.activity_regularizer is None
            and not self.joined
        )

    # methods, because Keras saves models that are attributes

    def _to_latent(self, start: Any) -> keras.Model:
        """Return the network from tensors of the graph to ``latent``, ``z_mean`` and ``z_log_stddev``."""
        names = ("latent", "z_mean", "z_log_stddev")
        return keras.Model(start, [self.get_layer(name).output for name in names])

    def _first_layer(self) -> keras.layers.Dense | None:
        """Return the encoder's first layer if it can be computed from sparse counts, else None."""
        names = [layer.name for layer in self.layers]
        before = ("expression", "normalize", "condition", "expression_and_condition")
        first = self.get_layer(next(name for name in names if name not in before))
        plain = type(first) is keras.layers.Dense and first.activity_regularizer is None
        return first if plain and first.name != "z_mean" and "normalize" in names else None

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Return the outputs; a decoder that can be folded is computed with fewer operations."""
        cells, condition = from_inputs(inputs)
        if isinstance(cells, SparseBatch):
            return self._call_sparse(cells, condition, training)
        if not self._folds:
            return super().call(inputs, training=training, mask=mask)
        z, mean, log_stddev = self._to_latent(self.input)(inputs, training=training)
        output = self.get_layer(self.decoder_layers[-1]).call(self._hidden(z, condition), condition)
        return {"output": output, "z_mean": mean, "z_log_stddev": log_stddev}

    def _call_sparse(self, cells: SparseBatch, condition: Any, training: bool | None) -> Any:
        """Return the outputs for sparse counts, with the predictors of the likelihood as ``output``."""
        from vaexprs.nn.sparse_encoder import dense_counts, first_layer, pays

        n_genes, first = self.inputs[0].shape[-1], self._first_layer()
        if first is not None and pays(cells, n_genes):
            start, values = first.output, first_layer(cells, condition, self.get_layer("normalize"), first)
        else:
            start, values = self.input, as_inputs(dense_counts(cells, n_genes), condition)
        z, mean, log_stddev = self._to_latent(start)(values, training=training)
        head = self.get_layer(self.decoder_layers[-1])
        predictors = head.predictors(self._hidden(z, condition), condition)
        return {"output": predictors, "z_mean": mean, "z_log_stddev": log_stddev}

    def losses_of(self, cells: Any, output: Any, *, robust: bool = True) -> tuple[Any, Any, Any]:
        """Return reconstruction error, KL divergence and loss of each cell, (n_cells,) each.

        Parameters
        ----------
        cells
            Prepared cells, (n_cells, n_genes), or sparse counts.
        output
            The outputs of the model for these cells.
        robust
            Whether the reconstruction error bounds the influence of outlying values.
        """
        mean, log_stddev = output["z_mean"], output["z_log_stddev"]
        if isinstance(cells, SparseBatch):
            reconstruction = -self.likelihood.sparse_log_prob(cells, output["output"])
        elif robust:
            reconstruction = -self.likelihood.robust_log_prob(cells, output["output"])
        else:
            reconstruction = -self.likelihood.log_prob(cells, output["output"])
        kl = -0.5 * ops.sum(1 + 2 * log_stddev - mean**2 - ops.exp(2 * log_stddev), axis=-1)
        return reconstruction, kl, reconstruction + self.regularization * kl

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the mean loss of a batch."""
        reconstruction, kl, loss = self.losses_of(from_inputs(x)[0], y_pred)
        self.reconstruction_tracker.update_state(reconstruction, sample_weight=sample_weight)
        self.kl_tracker.update_state(kl, sample_weight=sample_weight)
        loss = ops.mean(loss if sample_weight is None else sample_weight * loss)
        for penalty in self.losses:  # the user's kernel and activity regularisers
            loss = loss + ops.sum(penalty)
        return loss

    def make_train_function(self, force: bool = False) -> None:
        """Skip steps done before a fit was resumed, and run the steps of one execution as one JAX program."""
        super().make_train_function(force)
        run: Callable[..., Any] = vars(self)["train_function"]
        most = self.steps_per_execution
        alone = keras.distribution.distribution() is None
        if keras.backend.backend() == "jax" and alone and most > 1:
            run = several_steps(self.train_step, most)

        def train(state: Any, iterator: Iterator[Any]) -> Any:
            passed = min(self.steps_done, most)
            if not passed:
                return run(state, iterator)
            self.steps_done -= len(list(itertools.islice(iterator, passed)))
            rest = list(itertools.islice(iterator, most - passed))
            return run(state, iter(rest)) if rest else ({}, state)

        self.train_function = train

    def encoder(self) -> keras.Model:
        """Return the encoder from the inputs to ``z_mean``."""
        return keras.Model(self.input, self.get_layer("z_mean").output, name="encoder")

    def decoder(self) -> keras.Model:
        """Return the decoder from ``z`` (and ``condition``) to the parameters of the likelihood."""
        z = keras.Input(self.get_layer("latent").output.shape[1:], name="z")
        condition = None
        if len(self.inputs) == 2:
            condition = keras.Input(self.inputs[1].shape[1:], name="condition")
        return keras.Model(as_inputs(z, condition), self._decoded(z, condition), name="decoder")

    def folded_decoder(self) -> keras.Model:
        """Return `decoder`, with a linear hidden layer folded into copies of the head's weights."""
        if not self._folds:
            return self.decoder()
        linear, head = (self.get_layer(name) for name in self.decoder_layers)
        folded = type(head).from_config(head.get_config())
        z = keras.Input(self.get_layer("latent").output.shape[1:], name="z")
        condition = keras.Input(self.inputs[1].shape[1:], name="condition") if len(self.inputs) == 2 else None
        model = keras.Model(as_inputs(z, condition), call_layer(folded, z, condition), name="decoder")
        layer = Linear(None, np.asarray(linear.kernel, np.float64), np.asarray(linear.bias, np.float64))
        folded.take(head, layer)
        return model

    def noise_of_totals(
        self,
        decoder: keras.Model,
        z: np.ndarray,
        codes: np.ndarray | None,
        library: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[float, float]:
        """Return mean and variance of the log ratio of the totals of sampled counts to the library sizes.

        Parameters
        ----------
        decoder
            Model returned by `decoder`.
        z, codes
            Latent vectors of cells of one condition, (n_cells, latent_dim), and their one-hot conditions, if
            any.
        library
            Library size of each cell, (n_cells,).
        rng
            Random generator.
        """
        parts = predict(decoder, z.astype(np.float32), codes, NOISE_CELLS)
        output = keras.tree.pack_sequence_as(decoder.output, parts)
        if isinstance(output, dict):
            output = output | {name: output[name][:1] for name in self.likelihood.common}
        shape, cells = parts[0].shape, [np.arange(len(z))]
        totals = np.concatenate(
            [
                np.ravel(self.likelihood.draw(output, library[:, None], shape, cells, rng).sum(axis=1))
                / library
                for _ in range(-(-NOISE_DRAWS // len(z)))
            ]
        )
        log_ratio = np.log(np.maximum(totals, 1 / library.max()))
        return float(log_ratio.mean()), float(log_ratio.var())

    def _decoded(self, z: Any, condition: Any) -> Any:
        hidden = self._before_last_layer(z, condition)
        return call_layer(self.get_layer(self.decoder_layers[-1]), hidden, condition)

    def _before_last_layer(self, z: Any, condition: Any) -> Any:
        hidden = join(z, condition, "latent_and_condition") if self.joined else z
        for name in self.decoder_layers[:-1]:
            hidden = call_layer(self.get_layer(name), hidden, condition)
        return hidden

    def _hidden(self, z: Any, condition: Any) -> Any:
        """Return the input of the last decoder layer; a linear layer that can be folded is not computed."""
        if not self._folds:
            return self._before_last_layer(z, condition)
        linear = self.get_layer(self.decoder_layers[0])
        return Linear(z, linear.kernel, linear.bias)

    def with_noise_as_input(self) -> keras.Model:
        """Return the same graph and weights with the noise, (n_cells, latent_dim), as an additional input."""
        noise = keras.Input((self.latent_dim,), name="noise")
        mean, log_stddev = (self.get_layer(name).output for name in ("z_mean", "z_log_stddev"))
        z = mean + ops.exp(log_stddev) * noise
        condition = self.inputs[1] if len(self.inputs) == 2 else None
        output = {"output": self._decoded(z, condition), "z_mean": mean, "z_log_stddev": log_stddev}
        return keras.Model([*self.inputs, noise], output, name="with_noise")

    def local_copy(self) -> VAE:
        """Return a copy of the model with its weights on the devices of this process."""
        copy = VAE.from_config(self.get_config())
        copy.set_weights([np.asarray(weight.value) for weight in self.weights])
        return copy

    def uncompiled(self) -> VAE:
        """Return the same model without its optimizer, as it is saved."""
        return VAE(self.input, self.output, name=self.name, **self._own_config())

    def _own_config(self) -> dict[str, Any]:
        return {
            "likelihood": self.likelihood,
            "regularization": self.regularization,
            "decoder_layers": self.decoder_layers,
            "joined": self.joined,
        }

    def get_config(self) -> dict[str, Any]:
        graph = keras.Model(self.input, self.output, name=self.name)
        return {
            "name": self.name,
            "graph": keras.saving.serialize_keras_object(graph),
            "likelihood": self.likelihood.name,
            "likelihood_options": self.likelihood.options(),
            "regularization": self.regularization,
            "decoder_layers": list(self.decoder_layers),
            "joined": self.joined,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> VAE:
        graph = keras.saving.deserialize_keras_object(config["graph"], custom_objects=custom_objects)
        likelihood = LIKELIHOODS[config["likelihood"]](**config["likelihood_options"])
        return cls(
            graph.input,
            graph.output,
            name=config["name"],
            likelihood=likelihood,
            regularization=config["regularization"],
            decoder_layers=config["decoder_layers"],
            joined=config["joined"],
        )
