"""The environment of a kernel or server that sees nothing of the person whose machine it runs on."""

import os
from pathlib import Path


def isolated_environment(folder: Path) -> dict[str, str]:
    """Return this process's environment with every folder of settings and data inside `folder`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_", "CAR_"))}
    folders = {
        "CAR_SCHED_NB_STORE": "car.db",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "jupyter/config",
        "JUPYTER_DATA_DIR": "jupyter/data",
        "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
        "JUPYTERLAB_SETTINGS_DIR": "jupyter/settings",
        "JUPYTERLAB_WORKSPACES_DIR": "jupyter/workspaces",
        "XDG_CONFIG_HOME": "xdg/config",
        "XDG_DATA_HOME": "xdg/data",
    }
    # Jupyter looks in this environment (sys.prefix) before the person's own folders.
    return inherited | {name: str(folder / path) for name, path in folders.items()} | {"JUPYTER_PREFER_ENV_PATH": "1"}
