"""JupyterLab as `make lab` starts it: notebooks are saved as git keeps them, and nothing asks the network."""

from pathlib import Path

import nbformat

from helpers import ROOT
from helpers.run import notebook

c = get_config()  # noqa: F821  (given by Jupyter)


def as_kept(model: dict, path: str, **_) -> None:
    """Clean a notebook of the collection as a batch run does, so that looking at one changes no file."""
    if model["type"] == "notebook" and path.lstrip("/").startswith("notebooks/"):
        model["content"] = notebook.clean(nbformat.from_dict(model["content"]))


c.ContentsManager.pre_save_hook = as_kept
# For this machine only, and with the token that Jupyter makes up; LAB_ARGS="--ip=…" says otherwise.
c.ServerApp.ip = "localhost"
c.ServerApp.root_dir = str(ROOT)
c.LabApp.default_url = "/lab/tree/notebooks/00_start_here.ipynb"
c.LabApp.app_settings_dir = str(Path(__file__).parent)  # overrides.json
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.news_url = None
