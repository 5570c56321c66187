"""The life of a fit, in any order: fitted, saved, loaded, generated from, gone on with."""

import shutil
import tempfile
import warnings
from pathlib import Path

import vaexprs as vx

# isort: split
import anndata as ad
import keras
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

SLOTS = st.sampled_from(["a", "b"])
SEEDS = st.integers(0, 2)
LABELS = ["B", "T", "größe"]


def cells_of(seed):
    """24 cells x 6 genes of counts with three labels."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(2, (24, 6)).astype(np.float32)
    x[:, 0] += 1
    obs = {"kind": np.array(LABELS)[np.arange(24) % 3]}
    return ad.AnnData(x, obs=obs, var={"name": np.arange(6)})


def fit(cells, **settings):
    small = {
        "encoder_layers": [keras.layers.Dense(3, "relu", name="hidden")],
        "decoder_layers": [keras.layers.Dense(3, name="back")],
        "latent_dim": 2,
        "label_key": "kind",
        "epochs": 3,
        "batch_size": 8,
        "verbose": 0,
    }
    return vx.fit_vae(cells, **(small | settings))


def drawn(fitted, seed=0, **asked):
    asked = asked or {"num_samples": 20}
    return vx.gen_exprs(fitted, seed=seed, progress=False, **asked).adata


def same(a, b):
    return np.array_equal(a.X.toarray(), b.X.toarray()) and a.obs.equals(b.obs)


class Life(RuleBasedStateMachine):
    """Models in memory each with the cells that it generates; folders each with those of what is in it."""

    fits = Bundle("fits")

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.saved = {}
        self.written = {}
        self.checkpoint = None
        warnings.simplefilter("ignore")

    def teardown(self):
        shutil.rmtree(self.folder)

    @initialize(target=fits)
    def first(self):
        return self.made(fit(cells_of(0)))

    def made(self, fitted):
        return fitted, drawn(fitted)

    @rule(target=fits, seed=SEEDS, x=SEEDS)
    def fit_again(self, seed, x):
        a, b = (fit(cells_of(x), seed=seed) for _ in range(2))
        assert a.history == b.history
        assert same(drawn(a), drawn(b))
        return self.made(a)

    @rule(target=fits, earlier=fits, x=SEEDS)
    def fit_with_what_an_earlier_one_learned(self, earlier, x):
        before = earlier[0].preprocessing
        now = fit(cells_of(x), label_key=None, preprocessing=before)
        assert list(now.genes) == list(before.genes)
        assert now.preprocessing.conditions == before.conditions
        return self.made(now)

    @rule(target=fits, earlier=fits)
    def fit_the_cells_of_an_earlier_one(self, earlier):
        before = earlier[0].preprocessing
        if before.train is None:
            with pytest.raises(ValueError, match=r"\bcells\b.*disk"):
                fit(None, label_key=None, preprocessing=before)
            return earlier
        return self.made(fit(None, label_key=None, preprocessing=before))

    @rule(one=fits, slot=SLOTS, overwrite=st.booleans())
    def save(self, one, slot, overwrite):
        path = self.folder / slot
        if slot in self.saved and not overwrite:
            with pytest.raises(FileExistsError, match=r"exists"):
                one[0].save(path)
            return
        one[0].save(path, overwrite=overwrite)
        self.saved[slot] = one[1]

    @rule(target=fits, slot=SLOTS)
    def load(self, slot):
        if slot not in self.saved:
            with pytest.raises(FileNotFoundError, match=r"saved model"):
                vx.load_vae(self.folder / slot)
            return self.made(fit(cells_of(0)))
        loaded = vx.load_vae(self.folder / slot)
        assert loaded.preprocessing.train is None
        assert same(drawn(loaded), self.saved[slot])
        return loaded, self.saved[slot]

    @rule(one=fits, seed=SEEDS, n=st.sampled_from([1, 5, 300]), label=st.sampled_from(LABELS))
    def generate(self, one, seed, n, label):
        a = drawn(one[0], seed, labels={label: n})
        assert a.shape == (n, 6)
        assert set(a.obs["kind"]) == {label}
        assert same(a, drawn(one[0], seed, labels=label, num_samples=n))
        assert same(a, drawn(one[0], seed, labels={label: n}, batch_size=2, use_generator=True))

    @rule(one=fits, suffix=st.sampled_from([".h5ad", ".zarr", ".csv"]), overwrite=st.booleans())
    def generate_into_a_file(self, one, suffix, overwrite):
        path = self.folder / f"cells{suffix}"
        if suffix in self.written and not overwrite:
            with pytest.raises(FileExistsError, match=r"exists"):
                vx.gen_exprs(one[0], 20, out=path, progress=False)
            return
        vx.gen_exprs(one[0], 20, out=path, overwrite=overwrite, progress=False)
        self.written[suffix] = one[1]

    @rule(target=fits, seed=SEEDS, epochs=st.sampled_from([1, 2]))
    def stop_and_go_on(self, seed, epochs):
        """A fit that a callback ends, and that goes on from its checkpoint, is the one that was never ended."""

        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = epoch + 1 == epochs

        path = self.folder / "state"
        path.unlink(missing_ok=True)
        part = fit(cells_of(0), seed=seed, checkpoint=path, callbacks=[Stop()])
        assert len(part.history["loss"]) == epochs
        with pytest.raises(FileExistsError, match=r"resume=True"):
            fit(cells_of(0), seed=seed, checkpoint=path)
        with pytest.raises(ValueError, match=r"\bfit\b"):
            fit(cells_of(0), seed=seed + 1, checkpoint=path, resume=True)
        gone_on, whole = (
            fit(cells_of(0), seed=seed, checkpoint=path, resume=True),
            fit(cells_of(0), seed=seed),
        )
        assert gone_on.history == whole.history
        assert same(drawn(gone_on), drawn(whole))
        return self.made(gone_on)

    @precondition(lambda self: self.saved)
    @rule()
    def what_is_saved_stays_as_it_was(self):
        for slot, cells in self.saved.items():
            assert same(drawn(vx.load_vae(self.folder / slot)), cells)

    @invariant()
    def the_folder_holds_what_was_put_there_and_nothing_half_written(self):
        there = {path.name for path in self.folder.iterdir()} - {"state"}
        beside = {"cells.obs.csv"} if ".csv" in self.written else set()
        assert there == set(self.saved) | {f"cells{suffix}" for suffix in self.written} | beside
        for suffix, cells in self.written.items():
            turned = {"transpose": False} if suffix == ".csv" else {}
            back = vx.read(self.folder / f"cells{suffix}", **turned)
            x = back.X.toarray() if hasattr(back.X, "toarray") else back.X
            assert np.array_equal(x, cells.X.toarray())
            assert list(back.obs["kind"].astype(str)) == list(cells.obs["kind"].astype(str))


TestLife = pytest.mark.nightly(Life.TestCase)
TestLife.settings = settings(
    max_examples=max(3, settings().max_examples // 50), stateful_step_count=8, report_multiple_bugs=False
)
