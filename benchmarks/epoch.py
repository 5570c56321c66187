"""Wall time per epoch on the example of the original R package, and the loss reached.

    python benchmarks/epoch.py [--seeds 0 1 2]

300 cells x 1,000 genes, one hidden layer of 512 units, two latent dimensions, batches of 32, early stopping
on the training cells. The original (R, TensorFlow 2.15) took 0.103 s per epoch (median) and reached losses
of 577.4 to 578.3 for three seeds (tests/reference/README.md). Run it on an otherwise idle machine.

Prints, for each seed, the cross-entropy, the number of epochs, the time of the first epoch, the median of
the others and its ratio to that of R, and the time of the whole fit.
"""

import time
from pathlib import Path
from statistics import median

import vaexprs as vx

# isort: split
import keras
import numpy as np
from harness import parser

R_SECONDS = 0.103419  # median wall time per epoch of the R package


class Clock(keras.callbacks.Callback):
    """Records the wall time of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)


def main():
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = options.parse_args()
    reference = Path(__file__).parents[1] / "tests" / "reference" / "vae_seed1.npz"
    x = np.load(reference, allow_pickle=False)["x_train"]
    for seed in args.seeds:
        clock = Clock()
        stop = keras.callbacks.EarlyStopping("val_loss", patience=10, restore_best_weights=True)
        start = time.perf_counter()
        fit = vx.fit_vae(
            x_train=x,
            x_val=x,
            encoder_layers=[keras.Input((1000,)), keras.layers.Dense(512, "relu")],
            decoder_layers=[keras.layers.Dense(512, "relu"), keras.layers.Dense(1000, "sigmoid")],
            epochs=100,
            batch_size=32,
            seed=seed,
            verbose=0,
            callbacks=[clock, stop],
        )
        total = time.perf_counter() - start
        scaled = fit.preprocessing.x_train
        p = fit.decoder.predict(fit.encoder.predict(scaled, verbose=0), verbose=0).astype(float)
        entropy = -(scaled * np.log(p) + (1 - scaled) * np.log1p(-p)).sum(axis=1).mean()
        epoch = median(clock.seconds[1:])
        print(
            f"seed {seed}: cross-entropy {entropy:.1f}, {len(clock.seconds)} epochs, "
            f"first {clock.seconds[0]:.2f} s, then {epoch:.3f} s (median), {epoch / R_SECONDS:.2f} of the "
            f"original's; whole fit {total:.1f} s"
        )


if __name__ == "__main__":
    main()
