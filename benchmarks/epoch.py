"""Wall time of an epoch on the original package's own example, and the loss it reaches.

    python benchmarks/epoch.py

300 cells x 1,000 genes, one hidden layer of 512, two latent dimensions, batches of 32, early stopping on the
training cells: the original (R, TensorFlow 2.15) took 0.103 s an epoch in the median and ended at losses of
577.4 to 578.3 for three seeds (tests/reference/README.md). Run it on an otherwise idle machine.
"""

import time
from pathlib import Path
from statistics import median

import vaexprs as vx

# isort: split
import keras
import numpy as np

R_SECONDS = 0.103419


class Clock(keras.callbacks.Callback):
    """Remembers how long each epoch took."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)


def main():
    reference = Path(__file__).parents[1] / "tests" / "reference" / "vae_seed1.npz"
    x = np.load(reference, allow_pickle=False)["x_train"]
    for seed in range(3):
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
