"""Real faults on the command line: kill -9, rivals, a folder that may not be written to, Ctrl-C, little memory."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import vaexprs as vx
from commands import run
from vaexprs.interface import errors as _checks
from vaexprs.io import write as writing
from vaexprs.io.atomic import claimed, written_whole
from vaexprs.training import checkpoint as checkpoints

# replaces what is at `out` again and again, and dies at the first, second, ... step of putting it in place
DIES = """
import json, os, signal, sys
from pathlib import Path
from vaexprs.io import atomic as writing

out = Path(sys.argv[1])

def write(text, overwrite=True):
    with writing.written_whole(out, overwrite=overwrite) as beside:
        beside.mkdir()
        for name in "ab":
            (beside / name).write_text(text)

def look():
    return sorted(path.read_text() for path in out.iterdir()) if out.exists() else None

def deadly(function, n, done):
    def call(*given, **settings):
        done.append(1)
        if len(done) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **settings)
    return call

def after_each_step(write, look):
    for n in range(1, 30):
        write("old")
        clean = sorted(path.name for path in out.parent.iterdir())
        child = os.fork()
        if not child:
            done = []
            for name in ("rename", "replace", "unlink", "rmdir"):
                setattr(os, name, deadly(getattr(os, name), n, done))
            write("new")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = look()
        names = sorted(path.name for path in out.parent.iterdir())
        with writing.claimed(out):
            claimed = look()
        died = os.WIFSIGNALED(status)
        print(json.dumps({"clean": clean, "died": died, "found": found, "names": names, "claimed": claimed}))
        if not died:
            break
"""


def after_each_step(code, *words):
    """Return what is found after each step at which a process can die; after the last it does not."""
    done = subprocess.run(
        [sys.executable, "-c", DIES + code, *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["died"] for step in steps] == [True] * (len(steps) - 1) + [False]
    assert all(step["clean"] == steps[0]["clean"] for step in steps)  # the one before left nothing for long
    assert steps[-1]["names"] == steps[0]["clean"]
    return steps


@pytest.mark.faults
def test_a_folder_is_replaced_whole_wherever_the_process_is_killed(tmp_path):
    steps = after_each_step("after_each_step(write, look)", tmp_path / "m")
    assert steps[0]["clean"] == ["m"]
    found = [step["found"] for step in steps]
    assert all(each in (["old", "old"], ["new", "new"], None) for each in found)
    assert found[0] == ["old", "old"]
    assert found[-1] == ["new", "new"]
    assert len(steps) >= 5
    # between two renames there is no folder, and the next writer puts the old one back
    (gone,) = [step for step in steps if step["found"] is None]
    assert any("-old" in name for name in gone["names"])
    assert gone["claimed"] == ["old", "old"]
    assert all(step["claimed"] in (["old", "old"], ["new", "new"]) for step in steps)


@pytest.mark.faults
def test_a_table_never_stands_beside_the_columns_of_another(few, tmp_path):
    code = """
import anndata
import numpy as np
cells = {text: anndata.read_h5ad(Path(sys.argv[2]) / f"{text}.h5ad") for text in ("old", "new")}

def write_table(text):
    from vaexprs.io.write import write as write_cells
    write_cells(cells[text], out, overwrite=True)

def look_at_both():
    from vaexprs.io import read as io
    if not out.exists():
        return None
    read = io.read(out)
    x = [text for text in cells if np.array_equal(read.X, cells[text].X.toarray())]
    return x + [text for text in cells if list(read.obs["cell_type"]) == list(cells[text].obs["cell_type"])]

after_each_step(write_table, look_at_both)
"""
    new = few[6:12, :4].copy()
    new.obs_names = few.obs_names[1:7]
    few[1:7, :4].write_h5ad(tmp_path / "old.h5ad")
    new.write_h5ad(tmp_path / "new.h5ad")
    (tmp_path / "out").mkdir()
    steps = after_each_step(code, tmp_path / "out" / "g.csv", tmp_path)
    assert steps[0]["clean"] == ["g.csv", "g.obs.csv"]
    found = [step["found"] for step in steps]
    assert all(each in (["old", "old"], ["new", "new"], None) for each in found)
    assert [found[0], found[-1]] == [["old", "old"], ["new", "new"]]
    # where there is none, both are at hand
    assert all(
        sum("vaexprs" in name for name in step["names"]) >= 2 for step in steps if step["found"] is None
    )


def test_a_table_that_cannot_be_put_in_place_leaves_the_old_one(few, tmp_path, monkeypatch):
    out = tmp_path / "g.csv"
    vx.write(few[:5], out)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="cannot be written: no space left"):
        patch.setattr(os, "replace", full)
        vx.write(few[5:10], out, overwrite=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


@pytest.mark.faults
def test_a_command_that_is_killed_as_it_writes_runs_again(conditional, tmp_path):
    model = conditional.save(tmp_path / "model")
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "g.zarr"
    vx.gen_exprs(conditional, 20, out=out, progress=False)
    process = command("generate", model, "-n", 300_000, "--out", out, "-q", "--overwrite")
    while not any(".vaexprs-" in path.name for path in out.parent.iterdir()):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    left = sorted(path.name for path in out.parent.iterdir())
    assert left[-1] == "g.zarr"
    assert re.fullmatch(r"\.g\.vaexprs-[0-9a-f]{8}\.zarr \.g\.zarr\.lock", " ".join(left[:-1]))
    assert vx.read(out).n_obs == 20
    vx.gen_exprs(conditional, 30, out=out, overwrite=True, progress=False)
    assert vx.read(out).n_obs == 30
    assert [path.name for path in out.parent.iterdir()] == ["g.zarr"]


def command(*words, **settings):
    return subprocess.Popen(
        [sys.executable, "-m", "vaexprs", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


@pytest.mark.faults
def test_of_two_commands_with_one_output_the_second_says_so(few, tmp_path):
    few.write_h5ad(tmp_path / "few.h5ad")
    words = ["fit", tmp_path / "few.h5ad", "--label-key", "cell_type", "-q", "--out", tmp_path / "m"]
    first = command(*words, "--epochs", 100_000)
    while not (tmp_path / ".m.lock").exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = command(*words, "--overwrite", "--epochs", 1)
    said = second.communicate()[1]
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert re.fullmatch(rf"Error: '{re.escape(str(tmp_path / 'm'))}' .*another process.*\n", said), said
    # its claim ended with it
    fit = vx.fit_vae(few, label_key="cell_type", epochs=1, verbose=0)
    fit.save(tmp_path / "m")
    assert vx.load_vae(tmp_path / "m").history["loss"] == fit.history["loss"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.h5ad", "m"]


def test_claims(tmp_path, monkeypatch):
    out = tmp_path / "a.h5ad"
    code = f"from vaexprs.io.atomic import claimed\nwith claimed({str(out)!r}): pass"
    with claimed(out), claimed(out):  # who has it may claim it again
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "BlockingIOError: " in done.stderr
        assert "is being written by another process" in done.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert list(tmp_path.iterdir()) == []
    # where the file system has no locks nothing is kept from anybody, and nothing of others is cleared away
    import fcntl

    def none(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    mine = tmp_path / ".a.vaexprs-0123abcd.h5ad"
    mine.write_text("half-written by another machine")
    with claimed(out):
        assert mine.exists()
    monkeypatch.undo()
    with claimed(out):
        assert not mine.exists()


def test_what_was_written_meanwhile_is_not_replaced(tmp_path):
    out = tmp_path / "m"
    with (
        pytest.raises(FileExistsError, match="m' already exists"),
        written_whole(out, overwrite=False) as beside,
    ):
        beside.mkdir()
        out.mkdir()  # by somebody who did not ask
        (out / "a").write_text("theirs")
    assert (out / "a").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_columns_beside_a_table_are_looked_for_before_the_work(conditional, tmp_path):
    (tmp_path / "g.obs.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"g\.obs\.csv' already exists"):
        writing.check_new_cells(tmp_path / "g.csv", overwrite=False)


@pytest.mark.faults
def test_a_folder_that_may_not_be_written_to_is_told_before_the_work(few, tmp_path):
    few.write_h5ad(tmp_path / "few.h5ad")
    (tmp_path / "closed").mkdir(mode=0o555)
    words = ["fit", tmp_path / "few.h5ad", "--out", tmp_path / "closed" / "m", "--epochs", 100_000]
    started = [sys.executable, "-m", "vaexprs", *map(str, words)]
    if os.getuid() == 0:  # who may do anything
        if shutil.which("setpriv") is None:
            pytest.skip("root cannot give up its rights here: there is no setpriv")
        started = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override", *started]
    done = subprocess.run(started, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(
        f"Error: '{tmp_path / 'closed' / 'm'}' cannot be written: permission denied."
    )
    assert list((tmp_path / "closed").iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_fit(few, tmp_path):
    (tmp_path / "state").mkdir()

    class Full(checkpoints.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            limit = 3_000 if epoch == 1 else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    state = tmp_path / "state" / "s"
    with pytest.warns(UserWarning, match=r"'.*s' cannot be written: file too large\. .* Training goes on"):
        fit = vx.fit_vae(
            few, epochs=4, checkpoint=state, checkpoint_steps=1, callbacks=[Full()], seed=2, verbose=0
        )
    assert fit.history["loss"] == vx.fit_vae(few, epochs=4, seed=2, verbose=0).history["loss"]
    with np.load(state) as file:
        assert '"epoch": 4' in str(file["about"])
    assert [path.name for path in state.parent.iterdir()] == ["s"]


def test_a_model_that_cannot_be_saved_is_not_lost(few, tmp_path):
    few.write_h5ad(tmp_path / "few.h5ad")
    (tmp_path / "m").mkdir()
    # another's folder: the fit is told at its end only
    (tmp_path / "m" / "mine").write_text("mine")
    words = ["fit", tmp_path / "few.h5ad", "-q", "--out", tmp_path / "m", "--epochs", 2, "--overwrite"]
    done = run(*words)
    said = done.stderr
    assert done.returncode == 2
    assert "is not a saved model; it was not replaced. The training so far is kept in" in said
    assert "m.checkpoint': run the same command with --resume" in said
    assert (tmp_path / "m.checkpoint").exists()
    assert (tmp_path / "m" / "mine").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("name", ["g.h5ad", "g.zarr"])
def test_ctrl_c_keeps_whole_blocks(conditional, tmp_path, name):
    few_blocks = vx.gen_exprs(conditional, 40_000, seed=3, progress=False).adata

    def until(blocks):
        yield from blocks
        raise KeyboardInterrupt

    blocks = [few_blocks.X[i : i + 5_000] for i in range(0, 20_000, 5_000)]
    adata = vx.gen_exprs(conditional, 40_000, seed=3, progress=False).adata
    del adata.X
    out = tmp_path / name
    out.write_text("mine")
    with pytest.raises(
        KeyboardInterrupt, match="the first .* of 40,000 cells are kept in '.*g.partial"
    ) as stop:
        writing.write_blocks(adata, until(blocks), out, overwrite=True)
    partial = tmp_path / f"g.partial{out.suffix}"
    kept = vx.read(partial)
    assert f"the first {kept.n_obs:,} of" in str(stop.value)
    assert kept.n_obs in (15_000, 16_384, 20_000)
    assert (few_blocks.X[: kept.n_obs] != kept.X).nnz == 0
    assert kept.obs["cell_type"].tolist() == few_blocks.obs["cell_type"].tolist()[: kept.n_obs]
    assert kept.uns["vaexprs"]["interrupted"]
    assert out.read_text() == "mine"
    out.unlink()
    with pytest.raises(KeyboardInterrupt, match="nothing was kept: .*g.partial.* already exists"):
        writing.write_blocks(adata, until(blocks), out, overwrite=False)
    assert vx.read(partial).n_obs == kept.n_obs
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]


@pytest.mark.faults
def test_memory_that_ends_is_one_sentence():
    """More values than there is address space: in NumPy and in JAX."""
    code = (
        "import sys, resource\nfrom vaexprs import cli\nimport numpy as np\nimport jax.numpy as jnp\n"
        "def work(**_):\n    {}\ncli.app = work\nsys.argv[0] = 'vaexprs'\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))\ncli.main()\n"
    )
    works = {
        "np.ones(2**36)": r"Error: There is not enough memory \(Unable to allocate 512. GiB .*\)\. Take fewer genes",
        "jnp.ones(2**36).block_until_ready()": r"Error: There is not enough memory \(.*",
    }
    for work, words in works.items():
        done = subprocess.run([sys.executable, "-c", code.format(work)], capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert re.match(words, done.stderr.splitlines()[-1]), done.stderr
        assert "Traceback" not in done.stderr


def test_other_errors_are_not_of_memory():
    with pytest.raises(RuntimeError, match="of another kind"), _checks.memory_errors():
        raise RuntimeError("of another kind")
    words = r"not enough memory \(RESOURCE_EXHAUSTED: .*\)\. Take fewer genes"
    with pytest.raises(MemoryError, match=words), _checks.memory_errors():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 274877906944 bytes.")
    assert _checks.lacks_memory(OSError(12, "Cannot allocate memory"))
    assert not _checks.lacks_memory(ValueError("bad_alloc"))
    assert _checks.lacks_memory(SystemError("<function f> returned NULL without setting an exception"))
    with (
        pytest.raises(MemoryError, match=r"not enough memory \(Could not load lib\.so\)"),
        _checks.memory_errors(),
    ):
        try:
            raise OSError("lib.so: failed to map segment from shared object")
        except OSError:
            raise OSError("Could not load lib.so") from None
