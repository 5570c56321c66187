"""What the README says is true: its Python runs, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import vaexprs as vx
from vaexprs.cli import app

README = Path(__file__).parents[1] / "README.md"


def test_its_python_runs(tmp_path):
    """Each block in a process of its own, at fewer epochs."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) == 2
    for block in blocks:
        code = block.replace("epochs=100", "epochs=2").replace('"phase"])', '"phase"], epochs=2)')
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert vx.load_vae(tmp_path / "model").latent_dim == 10


def test_its_commands_and_options_exist():
    import typer

    verbs = typer.main.get_command(app).commands
    lines = re.findall(r"^    (?:.*&& )?vaexprs (.+)$", README.read_text(), re.M)
    assert len(lines) == 10
    for line in lines:
        verb, *words = line.split()
        known = {option for parameter in verbs[verb].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known
