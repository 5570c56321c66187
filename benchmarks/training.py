"""Training throughput compared with scvi-tools, PyTorch, a hand-written JAX scan, and the lower bound.

    python benchmarks/training.py DATA.h5ad [--peers PYTHON] [--runs 5] [--genes 2000] [--epochs 25] [--gpu]

All train a conditional VAE with a negative binomial likelihood on the same half of the cells and their most
variable genes: one hidden layer of 256 units on each side, 10 latent dimensions, batches of 128, Adam. Runs
alternate, each in a new process with all processors; the first epochs, which compile, do not count. PYTHON
is an interpreter with scvi-tools (and so PyTorch); without it one is installed in a temporary folder, which
downloads several GB. Run it on an otherwise idle machine: PyTorch is slowed most by other work.

With --gpu all train on an NVIDIA GPU: vaexprs and the JAX scan if `vaexprs[cuda]` is installed, the others if
their PyTorch supports it. Only the bound remains that of the processor.

Prints cells/s for each run, and the medians; --plot draws them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from functools import partial
from pathlib import Path
from statistics import median

from fit_time import write_half
from harness import in_turn, parser, run_code

WARM = 5  # epochs that do not count

VAEXPRS = """
import sys, time
import vaexprs as vx
import keras
class Clock(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        times.append(time.perf_counter())
import jax
assert not GPU or jax.default_backend() == "gpu", "JAX finds no GPU: pip install vaexprs[cuda]"
times, cells = [], vx.read(sys.argv[1])
vx.fit_vae(cells, label_key=sys.argv[2], batch_size=128, epochs=EPOCHS, verbose=0, callbacks=[Clock()])
print(16 * 128 * (EPOCHS - WARM) / (times[-1] - times[WARM - 1]))
"""

# The same model and optimiser steps in plain JAX; an epoch is one scan.
SCAN = """
import sys, time
import anndata as ad, numpy as np, pandas as pd
import jax, jax.numpy as jnp
cells = ad.read_h5ad(sys.argv[1])
x = jnp.asarray(np.asarray(cells.X.todense() if hasattr(cells.X, "todense") else cells.X, np.float32))
y = jnp.asarray(pd.get_dummies(cells.obs[sys.argv[2]]).to_numpy(np.float32))
n, genes, levels, hidden, latent, rate = *x.shape, y.shape[1], 256, 10, 3e-3
rng = np.random.default_rng(0)
def normal(*shape, scale): return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)
def zeros(*shape): return jnp.zeros(shape, jnp.float32)
w = {
    "encoder": normal(genes + levels, hidden, scale=0.03), "encoder_bias": zeros(hidden),
    "mean": normal(hidden, latent, scale=0.06), "mean_bias": zeros(latent),
    "sd": zeros(hidden, latent), "sd_bias": zeros(latent),
    "decoder": normal(latent, hidden, scale=0.1), "decoder_bias": zeros(hidden),
    "output": normal(hidden, genes, scale=0.01), "output_bias": jnp.log(x.sum(0) + 0.1),
    "effect": zeros(levels, genes), "dispersion": zeros(genes), "deviation": zeros(levels, genes),
}
logged = jnp.log1p(1e4 * x / x.sum(1, keepdims=True))
centre, spread = logged.mean(0), logged.std(0) + 0.1
def log_prob(x, mean, a):
    ratio = mean / a
    tail = lambda v: 1 / (12 * v) - 1 / (360 * v**3)
    b, c, d = a + 4, a + 4 + x, x + 5
    rising = jnp.log(24 * ((a + x) * (a + x + 1) / (a * (a + 1) * (1 + x) * (2 + x)))
                     * ((a + x + 2) * (a + x + 3) / ((a + 2) * (a + 3) * (3 + x) * (4 + x))))
    stirling = (c - 0.5) * jnp.log1p(x / b) - (d - 0.5) * jnp.log1p(x / 5)
    return (stirling + tail(c) - tail(b) - tail(d) + tail(5.0) - rising
            + x * jnp.log(ratio * b / 5) - (x + a) * jnp.log1p(ratio))
def loss(w, x, y, noise):
    library = x.sum(1, keepdims=True)
    scaled = jnp.clip((jnp.log1p(1e4 * x / library) - centre) / spread, -10, 10)
    h = jax.nn.relu(jnp.concatenate([scaled, y], 1) @ w["encoder"] + w["encoder_bias"])
    m, s = h @ w["mean"] + w["mean_bias"], h @ w["sd"] + w["sd_bias"]
    h = (m + jnp.exp(s) * noise) @ w["decoder"] + w["decoder_bias"]
    p = jax.nn.softmax(h @ w["output"] + w["output_bias"] + 5 * (y @ w["effect"]))
    theta = jnp.exp(jnp.clip(20 * (w["dispersion"] + y @ w["deviation"]), -7, 9))
    lp = log_prob(x, library * p + 1e-8, theta) @ jnp.ones((genes, 1), jnp.float32)
    kl = -0.5 * (1 + 2 * s - m**2 - jnp.exp(2 * s)).sum(1)
    prior = 1e-3 * (w["effect"] ** 2).sum() + 1e-2 * (w["deviation"] ** 2).sum()
    return (kl - lp[:, 0]).mean() + prior
def epoch(state, order, key):
    def step(state, inputs):
        w, m, v, average, t = state
        rows, key = inputs
        value, g = jax.value_and_grad(loss)(w, x[rows], y[rows], jax.random.normal(key, (len(rows), latent)))
        norm = jnp.sqrt(sum((part**2).sum() for part in jax.tree.leaves(g)))
        g = jax.tree.map(lambda part: part * jnp.minimum(1, 10 / norm), g)
        t = t + 1
        m = jax.tree.map(lambda a, b: a + 0.1 * (b - a), m, g)
        v = jax.tree.map(lambda a, b: a + 0.01 * (b * b - a), v, g)
        factor = rate * jnp.sqrt(1 - 0.99**t) / (1 - 0.9**t)
        w = jax.tree.map(lambda a, b, c: a - factor * b / (jnp.sqrt(c) + 1e-7), w, m, v)
        average = jax.tree.map(lambda a, b: a + 0.01 * (b - a), average, w)
        return (w, m, v, average, t), value
    return jax.lax.scan(step, state, (order, jax.random.split(key, len(order))))
epoch = jax.jit(epoch, donate_argnums=0)
nothing = jax.tree.map(jnp.zeros_like, w)
state = (w, nothing, jax.tree.map(jnp.copy, nothing), jax.tree.map(jnp.copy, w), jnp.float32(0))
times = []
for i in range(EPOCHS):
    order = jnp.asarray(np.resize(rng.permutation(n), (16, 128)))
    state, values = epoch(state, order, jax.random.key(i))
    float(values.mean())
    times.append(time.perf_counter())
print(16 * 128 * (EPOCHS - WARM) / (times[-1] - times[WARM - 1]))
"""

TORCH = """
import sys, time
import anndata as ad, numpy as np, pandas as pd
import torch
from torch import nn
cells = ad.read_h5ad(sys.argv[1])
x = torch.tensor(np.asarray(cells.X.todense() if hasattr(cells.X, "todense") else cells.X, np.float32))
y = torch.tensor(pd.get_dummies(cells.obs[sys.argv[2]]).to_numpy(np.float32))
device = "cuda" if GPU else "cpu"
x, y = x.to(device), y.to(device)
n, genes, levels, hidden, latent = *x.shape, y.shape[1], 256, 10
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(genes + levels, hidden)
        self.mean, self.sd = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder, self.output = nn.Linear(latent, hidden), nn.Linear(hidden, genes)
        self.effect = nn.Parameter(torch.zeros(levels, genes))
        self.dispersion, self.deviation = (nn.Parameter(torch.zeros(k, genes)) for k in (1, levels))
    def forward(self, x, y):
        library = x.sum(1, keepdim=True)
        h = torch.relu(self.encoder(torch.cat([torch.log1p(1e4 * x / library), y], 1)))
        m, s = self.mean(h), self.sd(h)
        z = m + s.exp() * torch.randn_like(m)
        p = torch.softmax(self.output(self.decoder(z)) + y @ self.effect, -1)
        theta = torch.exp(self.dispersion + y @ self.deviation)
        mu = library * p + 1e-8
        lp = (torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
              + theta * torch.log(theta / (theta + mu)) + x * torch.log(mu / (theta + mu))).sum(1)
        kl = -0.5 * (1 + 2 * s - m**2 - torch.exp(2 * s)).sum(1)
        return (kl - lp).mean()
torch.manual_seed(0)
net = Net().to(device)
adam = torch.optim.Adam(net.parameters(), lr=3e-3, fused=True)
times = []
for _ in range(EPOCHS):
    for rows in torch.randperm(n).repeat(2)[: 16 * 128].split(128):
        adam.zero_grad()
        net(x[rows], y[rows]).backward()
        adam.step()
    if GPU:
        torch.cuda.synchronize()
    times.append(time.perf_counter())
print(16 * 128 * (EPOCHS - WARM) / (times[-1] - times[WARM - 1]))
"""

SCVI = """
import sys, time
import anndata as ad
import scvi
from lightning.pytorch.callbacks import Callback
class Clock(Callback):
    def on_train_epoch_end(self, trainer, module):
        times.append(time.perf_counter())
scvi.settings.seed = 0
times, cells = [], ad.read_h5ad(sys.argv[1])
scvi.model.SCVI.setup_anndata(cells, labels_key=sys.argv[2])
model = scvi.model.SCVI(cells, n_hidden=256, n_layers=1, n_latent=10, gene_likelihood="nb")
model.train(max_epochs=EPOCHS, batch_size=128, train_size=1.0, accelerator="gpu" if GPU else "cpu",
            enable_progress_bar=False, callbacks=[Clock()])
print(cells.n_obs * (EPOCHS - WARM) / (times[-1] - times[WARM - 1]))
"""

FLOOR = """
import sys
sys.path.insert(0, FOLDER)
from limits import floor, machine
import anndata as ad
x = ad.read_h5ad(sys.argv[1]).X
density = (x > 0).sum() / (x.shape[0] * x.shape[1])
print(128 / floor(128, x.shape[1], density, 256, 10, *machine()))
"""


def throughput(python: str, script: str, data: Path, label_key: str, epochs: int, gpu: bool) -> float:
    """Run a script in a new process and return the cells/s that it prints last."""
    folder = str(Path(__file__).parent)
    settings = f"EPOCHS, WARM, FOLDER, GPU = {epochs}, {WARM}, {folder!r}, {gpu}\n"
    return float(run_code(python, settings + script, data, label_key).split()[-1])


def peers_in(folder: str) -> str:
    """Create an environment with scvi-tools and return its interpreter."""
    venv.create(folder, with_pip=True)
    python = str(Path(folder, "bin", "python"))
    subprocess.run([python, "-m", "pip", "install", "-q", "scvi-tools"], check=True)
    return python


def plot(rates: dict[str, float], genes: int, path: Path) -> None:
    """Plot the rates as bars."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 2.4), layout="constrained")
    bars = axes.barh(list(rates), list(rates.values()), color=["#0b6e99", *["#9aa5ab"] * (len(rates) - 1)])
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates.values()], padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(f"training throughput, cells/s ({genes:,} genes, batches of 128)")
    axes.set_xlim(0, 1.15 * max(rates.values()))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    options = parser(__doc__, data="data")
    options.add_argument("--peers", metavar="PYTHON", help="interpreter with scvi-tools")
    options.add_argument("--runs", type=int, default=5, help="runs of each side")
    options.add_argument("--genes", type=int, default=2_000, help="maximum number of genes")
    options.add_argument("--epochs", type=int, default=25, help=f"more than {WARM}, which do not count")
    options.add_argument("--gpu", action="store_true", help="train on an NVIDIA GPU")
    options.add_argument("--plot", type=Path, help="output file for the figure")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peers = args.peers or peers_in(folder)
        data = Path(folder, "half.h5ad")
        n_cells, n_genes = write_half(args.data, args.label_key, data, args.genes)
        print(f"{args.data.name}: {n_cells} cells x {n_genes} genes")
        scripts = {
            "vaexprs": (sys.executable, VAEXPRS),
            "scvi-tools": (peers, SCVI),
            "PyTorch, fused Adam": (peers, TORCH),
            "JAX scan": (sys.executable, SCAN),
            "floor": (sys.executable, FLOOR),
        }
        sides = {
            side: partial(throughput, python, script, data, args.label_key, args.epochs, args.gpu)
            for side, (python, script) in scripts.items()
        }
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for side, rate in in_turn(sides, args.runs):
            rates[side].append(rate)
            print(f"  {side}: {rate:,.0f} cells/s", flush=True)
    medians = {side: median(values) for side, values in rates.items()}
    if args.plot is not None:
        plot({side: rate for side, rate in medians.items() if side != "floor"}, n_genes, args.plot)
    for side, rate in medians.items():
        print(f"{side}: median {rate:,.0f} cells/s; vaexprs is {medians['vaexprs'] / rate:.2f} times as fast")


if __name__ == "__main__":
    main()
