"""The networks: the user's layers rebuilt, the reparameterisation, and the loss."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from vaexprs._checks import reason
from vaexprs.batches import as_inputs
from vaexprs.likelihoods import LIKELIHOODS, Head, Likelihood
from vaexprs.matrices import Matrix, densify
from vaexprs.ondisk import DiskMatrix
from vaexprs.preprocessing import INPUT_TARGET, LevelCodes, Summary

RESERVED = (
    "expression",
    "condition",
    "expression_and_condition",
    "z_mean",
    "z_log_stddev",
    "latent",
    "latent_and_condition",
    "normalize",
    "output",
)
# A step of Adam moves the sum of n weighted inputs by up to n times the learning rate: beyond so many genes
# the inputs get smaller in proportion, or training diverges.
INPUT_GENES = 2000
INPUT_LIMIT = 10.0  # standard deviations, as in scanpy.pp.scale(max_value=10)
ROWS_AT_ONCE = 1_024
NOISE_CELLS = 64  # of each condition tell how much totals of drawn counts spread
LARGEST_LOG_STDDEV = 2.0
LEAST_COMPILE_TIME = 0.1  # seconds from which on a compiled program is kept


@keras.saving.register_keras_serializable("vaexprs")
class Normalize(keras.layers.Layer):
    """First layer of an encoder: prepared values to inputs around zero of about unit size (at most).

    Parameters
    ----------
    counts
        Whether values are counts, to be taken as ``log(1 + 1e4 * x / library size)``.
    """

    def __init__(self, counts: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.counts = counts

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        genes = (input_shape[-1],)
        self.centre = self.add_weight(name="centre", shape=genes, initializer="zeros", trainable=False)
        self.spread = self.add_weight(name="spread", shape=genes, initializer="ones", trainable=False)
        self.built = True

    def start(self, x: Matrix | DiskMatrix, summary: Summary) -> None:
        """Take mean and standard deviation of each gene from the training cells.

        Parameters
        ----------
        x
            Prepared cells, (n_cells, n_genes).
        summary
            Of the cells' own values.
        """
        n, total, squares = summary.cells, summary.logged, summary.logged_squares
        if not self.counts:
            n, total, squares = x.shape[0], np.zeros(x.shape[1]), np.zeros(x.shape[1])
            for first in range(0, x.shape[0], ROWS_AT_ONCE):
                block = densify(x[first : first + ROWS_AT_ONCE]).astype(np.float64)
                total += block.sum(axis=0)
                squares += (block**2).sum(axis=0)
        mean = total / n
        sd = np.sqrt(np.maximum(squares / n - mean**2, 0))
        self.centre.assign(mean)
        # a gene that hardly varies must not be blown up to the size of the others
        self.spread.assign(np.maximum(sd, 0.1 * np.sqrt(np.mean(sd**2)) + 1e-6))

    def call(self, x: Any) -> Any:
        if self.counts:
            library = ops.maximum(ops.sum(x, axis=-1, keepdims=True), 1.0)
            x = ops.log1p(INPUT_TARGET * x / library)
        scaled = ops.clip((x - self.centre) / self.spread, -INPUT_LIMIT, INPUT_LIMIT)
        return scaled * min(1.0, INPUT_GENES / self.centre.shape[0])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "counts": self.counts}


@keras.saving.register_keras_serializable("vaexprs")
class Sampling(keras.layers.Layer):
    """The reparameterisation: ``z_mean + exp(z_log_stddev) * noise``, noise for each cell and dimension.

    Outside training the noise of a batch is always the same, so that validation losses differ by what was
    learned and not by luck, and predictions can be repeated (Kingma & Welling 2013,
    doi:10.48550/arXiv.1312.6114).
    """

    def __init__(self, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Sequence[Any], training: bool = False) -> Any:
        mean, log_stddev = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator if training else self.seed)
        return mean + ops.exp(log_stddev) * noise

    def compute_output_shape(self, input_shape: Sequence[Any]) -> Any:
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("vaexprs")
def bounded(log_stddev: Any) -> Any:
    """Return log standard deviations of at most 2, that is 7.4 times that of the prior.

    In a long fit a single cell can get a large one, whose square swamps the loss of an epoch.
    """
    return ops.minimum(log_stddev, LARGEST_LOG_STDDEV)


@keras.saving.register_keras_serializable("vaexprs")
class VAE(keras.Model):
    r"""A functional Keras model trained on the negative evidence lower bound.

    .. math:: -\log p(x \mid z) + \lambda\,\mathrm{KL}(q(z \mid x) \,\|\, N(0, I)), \quad
              \mathrm{KL} = -\tfrac12 \sum_j (1 + 2 s_j - m_j^2 - e^{2 s_j})

    with the mean m and the log standard deviation s of q; both terms are summed over genes and latent
    dimensions and averaged over cells. They are logged as ``reconstruction`` and ``kl`` beside ``loss``.

    Parameters
    ----------
    inputs, outputs
        Of the graph; the outputs are a dict of ``output`` (what the likelihood takes), ``z_mean`` and
        ``z_log_stddev``.
    likelihood
        The likelihood of the prepared values.
    regularization
        Weight of the KL divergence.
    decoder_layers
        Names of the decoder's layers, in order.
    joined
        Whether the first of these takes the conditions beside z; a head takes them in any case.
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
        self.interrupted = False  # by Ctrl-C, before the last step
        self.diverged = ""  # how training ended, where its loss was no longer a number
        self.steps_done = 0  # of the first epoch to train, in an earlier fit that goes on

    @property
    def latent_dim(self) -> int:
        """Size of the latent vector."""
        return int(self.get_layer("latent").output.shape[-1])

    def losses_of(self, cells: Any, output: Any) -> tuple[Any, Any, Any]:
        """Return for each cell the reconstruction error, the KL divergence, and the loss, each (n_cells,)."""
        mean, log_stddev = output["z_mean"], output["z_log_stddev"]
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
        """Return the mean loss of a batch; the cells are their own target."""
        cells = x[0] if isinstance(x, (list, tuple)) else x
        reconstruction, kl, loss = self.losses_of(cells, y_pred)
        self.reconstruction_tracker.update_state(reconstruction, sample_weight=sample_weight)
        self.kl_tracker.update_state(kl, sample_weight=sample_weight)
        loss = ops.mean(loss if sample_weight is None else sample_weight * loss)
        for penalty in self.losses:  # the user's kernel and activity regularisers
            loss = loss + ops.sum(penalty)
        return loss

    def make_train_function(self, force: bool = False) -> None:
        """Pass over steps that were done earlier, and let JAX run those of one execution as one program."""
        super().make_train_function(force)
        run: Callable[..., Any] = vars(self)["train_function"]
        most = self.steps_per_execution
        alone = keras.distribution.distribution() is None
        if keras.backend.backend() == "jax" and alone and most > 1:
            run = _several_steps(self.train_step, most)

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
        """Return the decoder from ``z`` (and ``condition``) to what the likelihood takes."""
        z = keras.Input(self.get_layer("latent").output.shape[1:], name="z")
        condition = None
        if len(self.inputs) == 2:
            condition = keras.Input(self.inputs[1].shape[1:], name="condition")
        return keras.Model(as_inputs(z, condition), self._decoded(z, condition), name="decoder")

    def noise_of_totals(
        self, decoder: keras.Model, z: np.ndarray, codes: np.ndarray | None, library: np.ndarray
    ) -> float:
        """Return by what variance the logarithm of a total of drawn counts spreads around its library size.

        Parameters
        ----------
        decoder
            What `decoder` returned.
        z, codes
            Latent vectors of some cells, (n_cells, latent_dim), and their one-hot conditions, if any.
        library
            Library size of each, (n_cells,).
        """
        parts = predict(decoder, z.astype(np.float32), codes, NOISE_CELLS)
        output = keras.tree.pack_sequence_as(decoder.output, parts)
        return float(self.likelihood.relative_noise(output, library[:, None]).mean())

    def _decoded(self, z: Any, condition: Any) -> Any:
        hidden = join(z, condition, "latent_and_condition") if self.joined else z
        for name in self.decoder_layers:
            hidden = _call(self.get_layer(name), hidden, condition)
        return hidden

    def with_noise_as_input(self) -> keras.Model:
        """Return the same graph and weights with one input more, the noise, (n_cells, latent_dim)."""
        noise = keras.Input((self.latent_dim,), name="noise")
        mean, log_stddev = (self.get_layer(name).output for name in ("z_mean", "z_log_stddev"))
        z = mean + ops.exp(log_stddev) * noise
        condition = self.inputs[1] if len(self.inputs) == 2 else None
        output = {"output": self._decoded(z, condition), "z_mean": mean, "z_log_stddev": log_stddev}
        return keras.Model([*self.inputs, noise], output, name="with_noise")

    def local_copy(self) -> VAE:
        """Return the same model with its weights on this process's own devices."""
        copy = VAE.from_config(self.get_config())
        copy.set_weights([np.asarray(weight.value) for weight in self.weights])
        return copy

    def uncompiled(self) -> VAE:
        """Return the same model without optimizer, as it is saved."""
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


def _several_steps(step: Callable[..., Any], most: int) -> Callable[..., Any]:
    """Return a train function in the form of Keras' that takes up to `most` batches at once.

    The batches, which must be of one size, are put into the same `most` places each time, and how many there
    are is told apart: a shorter group at the end of an epoch needs no program of its own.
    """
    import jax

    @partial(jax.jit, donate_argnums=0)
    def run(state: Any, batches: Any, n: Any) -> Any:
        def one(i: Any, carried: Any) -> Any:
            batch = jax.tree.map(lambda part: part[i], batches)
            return step(carried[1], batch)

        shapes = jax.eval_shape(step, state, jax.tree.map(lambda part: part[0], batches))[0]
        logs = jax.tree.map(lambda part: jax.numpy.zeros(part.shape, part.dtype), shapes)
        return jax.lax.fori_loop(0, n, one, (logs, state))

    # JAX may read NumPy's memory while it computes: one set of places is filled while it works on the other
    sets: list[tuple[list[np.ndarray], Any]] = [([], None), ([], None)]

    def train(state: Any, iterator: Iterator[Any]) -> Any:
        places, busy = sets.pop(0)
        jax.block_until_ready(busy)
        n = 0
        for batch in itertools.chain([next(iterator)], itertools.islice(iterator, most - 1)):
            parts, form = jax.tree.flatten(batch)
            if not places:
                places = [np.empty((most, *np.shape(part)), np.asarray(part).dtype) for part in parts]
            for place, part in zip(places, parts, strict=True):
                place[n] = part
            n += 1
        logs, state = run(state, jax.tree.unflatten(form, places), n)
        sets.append((places, logs))
        return logs, state

    return train


def join(x: Any, condition: Any, name: str) -> Any:
    """Return `x` with the one-hot conditions, if any, as further columns."""
    return x if condition is None else keras.layers.Concatenate(name=name)([x, condition])


def default_layers(n_cells: int, side: str) -> list[keras.layers.Layer]:
    """Return one hidden layer of 256 units for a side of the network, 128 below 500 cells.

    The decoder's has no activation: logits of genes are then linear in latent vector and conditions, a
    factor analysis, and few cells tell no more. The product of two matrices that it makes of the slopes is
    learned faster and leans to low rank (Arora, Cohen & Hazan 2018, doi:10.48550/arXiv.1802.06509; Arora
    et al. 2019, doi:10.48550/arXiv.1905.13655).
    """
    units = 128 if n_cells < 500 else 256
    activation = "relu" if side == "encoder" else None
    return [keras.layers.Dense(units, activation=activation, name=f"{side}_1")]


def _call(layer: keras.layers.Layer, hidden: Any, condition: Any) -> Any:
    """Return the output of a decoder layer; a head takes the conditions beside the hidden units."""
    if condition is None or not isinstance(layer, Head):
        return layer(hidden)
    return layer(hidden, condition)


def rebuild_layers(layers: Sequence[keras.layers.Layer], argument: str, taken: set[str]) -> list[Any]:
    """Return new layers with the configuration of the user's, under names not yet `taken`.

    A layer can then be in two lists, or in two fits, without sharing its weights. Names are added to
    `taken`.

    Raises
    ------
    TypeError
        If something in the list is not a Keras layer.
    ValueError
        If a layer is a Lambda or cannot be rebuilt.
    """
    rebuilt = []
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"{argument} must hold Keras layers, got {type(layer).__name__} ({layer!r}).")
        if isinstance(layer, keras.layers.Lambda):
            raise ValueError(
                f"{argument} must hold layers that can be saved as data, got the Lambda layer "
                f"{layer.name!r}. Write it as a subclass of keras.layers.Layer."
            )
        try:
            config = layer.get_config()
            base = name = config.get("name") or layer.name
            number = 1
            while name in taken:
                name = f"{base}_{number}"
                number += 1
            taken.add(name)
            rebuilt.append(type(layer).from_config({**config, "name": name}))
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                f"{argument} must hold layers that can be rebuilt from their configuration, but "
                f"{type(layer).__name__} cannot: {reason(error)} Give it get_config()."
            ) from error
    return rebuilt


@contextmanager
def seeded_layers(seed: int) -> Iterator[None]:
    """Draw the seeds of Keras' initialisers and random layers from `seed` inside the block.

    Keras takes them from Python's generator, whose state is put back afterwards.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def build_vae(
    encoder_layers: Sequence[keras.layers.Layer] | None,
    decoder_layers: Sequence[keras.layers.Layer] | None,
    *,
    likelihood: Likelihood,
    x: Matrix | DiskMatrix,
    summary: Summary,
    level_cells: Sequence[int],
    latent_dim: int,
    regularization: float,
    seed: int,
) -> VAE:
    """Return an untrained VAE.

    Parameters
    ----------
    encoder_layers, decoder_layers
        The user's hidden layers; None for the default. The encoder's may begin with a `keras.Input`.
    likelihood
        Of the prepared values; its head follows the decoder's layers, unless the last of these is the
        output.
    x
        Prepared training cells, (n_cells, n_genes): the starting values come from them and ...
    summary
        ... the summary of their own values.
    level_cells
        Number of training cells in each one-hot condition column; empty for an unconditional model.
    latent_dim
        Size of the latent vector.
    regularization
        Weight of the KL divergence.
    seed
        Seed of the initial weights and the noise.
    """
    n_cells, n_genes = x.shape
    taken = set(RESERVED)
    for name, layers in (("encoder_layers", encoder_layers), ("decoder_layers", decoder_layers)):
        if layers is not None and not isinstance(layers, (list, tuple)):
            raise TypeError(f"{name} must be a list of Keras layers, got {type(layers).__name__}.")
    with seeded_layers(seed):
        encoder = _encoder_layers(encoder_layers, n_genes, n_cells, taken)
        decoder = _decoder_layers(decoder_layers, likelihood, n_genes, n_cells, level_cells, taken)
        expression = keras.Input((n_genes,), name="expression")
        condition = keras.Input((len(level_cells),), name="condition") if len(level_cells) else None
        hidden = expression
        if likelihood.scaling_in_network:
            normalize = Normalize(likelihood.counts, name="normalize")
            hidden = normalize(hidden)
            normalize.start(x, summary)
        hidden = join(hidden, condition, "expression_and_condition")
        for layer in encoder:
            hidden = _apply(layer, hidden, "encoder_layers")
        _check_flat(hidden, "encoder_layers")
        z_mean = keras.layers.Dense(latent_dim, name="z_mean")(hidden)
        # a posterior of unit size to begin with: exp() of a large start would swamp the loss
        z_log_stddev = keras.layers.Dense(
            latent_dim, activation=bounded, kernel_initializer="zeros", name="z_log_stddev"
        )(hidden)
        latent = Sampling(seed, name="latent")([z_mean, z_log_stddev])
        # with layers of the user's own, conditions may change what the latent vector means
        joined = bool(decoder_layers) or not isinstance(decoder[-1], Head)
        hidden = join(latent, condition, "latent_and_condition") if joined else latent
        for layer in decoder:
            hidden = _apply(layer, hidden, "decoder_layers", condition)
        if likelihood.last_layer_is_output:
            _check_flat(hidden, "decoder_layers")
            if hidden.shape[-1] != n_genes:
                raise ValueError(
                    f"The last of decoder_layers must have as many units as there are genes under likelihood "
                    f"{likelihood.name!r}: {n_genes:,}, got {hidden.shape[-1]:,}."
                )
        likelihood.start(decoder[-1], x, summary)
        return VAE(
            as_inputs(expression, condition),
            {"output": hidden, "z_mean": z_mean, "z_log_stddev": z_log_stddev},
            likelihood=likelihood,
            regularization=regularization,
            decoder_layers=[layer.name for layer in decoder],
            joined=joined,
            name="vae",
        )


def _encoder_layers(
    layers: Sequence[keras.layers.Layer] | None, n_genes: int, n_cells: int, taken: set[str]
) -> list[keras.layers.Layer]:
    if layers is None:
        layers = default_layers(n_cells, "encoder")
    elif len(layers) and _is_input(layers[0]):
        shape = tuple(layers[0].shape[1:] if hasattr(layers[0], "shape") else layers[0].batch_shape[1:])
        if shape != (n_genes,):
            raise ValueError(
                f"The keras.Input of encoder_layers must have the shape of a cell, ({n_genes},), got {shape}."
            )
        layers = layers[1:]
    return rebuild_layers(layers, "encoder_layers", taken)


def _is_input(layer: Any) -> bool:
    return isinstance(layer, (keras.KerasTensor, keras.layers.InputLayer))


def _decoder_layers(
    layers: Sequence[keras.layers.Layer] | None,
    likelihood: Likelihood,
    n_genes: int,
    n_cells: int,
    level_cells: Sequence[int],
    taken: set[str],
) -> list[keras.layers.Layer]:
    given = default_layers(n_cells, "decoder") if layers is None else layers
    hidden = rebuild_layers(given, "decoder_layers", taken)
    if layers is not None and likelihood.last_layer_is_output:
        return hidden
    return [*hidden, likelihood.head(n_genes, n_cells, level_cells)]


def _apply(layer: keras.layers.Layer, hidden: Any, argument: str, condition: Any = None) -> Any:
    try:
        return _call(layer, hidden, condition)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{argument} must fit together, but {layer.name!r} ({type(layer).__name__}) does not take the "
            f"shape {tuple(hidden.shape)}: {reason(error)}"
        ) from error


def _check_flat(hidden: Any, argument: str) -> None:
    if not hasattr(hidden, "shape") or len(hidden.shape) != 2 or hidden.shape[-1] is None:
        raise ValueError(
            f"{argument} must end in a layer with output of shape (n_cells, units), "
            f"got {tuple(getattr(hidden, 'shape', ()))}. Add keras.layers.Flatten()."
        )


def keep_compiled() -> None:
    """Let JAX keep the programs it compiles in the user's cache folder: the next fit like this starts sooner.

    Programs hold no data. A folder that is chosen already (``JAX_COMPILATION_CACHE_DIR``) stays, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` switches it off.
    """
    if keras.backend.backend() != "jax":
        return
    import jax
    from platformdirs import user_cache_path

    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        with suppress(OSError):  # no home to write to: compile each time
            folder = user_cache_path("vaexprs", appauthor=False) / "jax"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            config.update("jax_compilation_cache_dir", str(folder))
            config.update("jax_persistent_cache_min_compile_time_secs", LEAST_COMPILE_TIME)


def predict(
    model: keras.Model,
    x: Matrix | DiskMatrix,
    codes: np.ndarray | LevelCodes | None,
    batch_size: int = 256,
) -> list[np.ndarray]:
    """Return a model's outputs for prepared cells as a flat list of arrays, one batch in memory at a time."""
    parts = []
    for first in range(0, x.shape[0], batch_size):
        rows = slice(first, first + batch_size)
        parts.append(
            _predict_block(model, densify(x[rows]), None if codes is None else codes[rows], batch_size)
        )
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _predict_block(
    model: keras.Model, x: np.ndarray, codes: np.ndarray | None, batch_size: int
) -> list[np.ndarray]:
    # blocks of one size: XLA compiles once, and a cell's numbers do not depend on its neighbours
    short = batch_size - len(x)
    padded = [np.pad(part, ((0, short), (0, 0))) for part in (x, codes) if part is not None]
    outputs = model.predict_on_batch(padded if len(padded) == 2 else padded[0])
    return [np.asarray(part)[: len(x)] for part in keras.tree.flatten(outputs)]
