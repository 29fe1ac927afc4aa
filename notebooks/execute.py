"""Runs notebooks without a browser, each in its folder, and leaves them with what they show.

    python notebooks/execute.py NOTEBOOK...

Not by `jupyter-execute`, which hangs now and then at an `interact`: it tells the kernel what the widget shows, on the
socket where it waits for the cell's end, and may miss that (https://github.com/jupyter/nbclient/issues/312). It also
passes over an error that a widget shows.
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.output_widget import OutputWidget

SECONDS = 600  # to start in, and for each cell


class Output(OutputWidget):
    """What a widget shows, of which the kernel is told nothing: no cell reads it there."""

    def sync_state(self) -> None:
        pass


def execute(path: Path) -> None:
    """Runs a notebook and writes it with what it shows, also where a cell fails.

    Raises:
        CellExecutionError: a cell failed.
        RuntimeError: a widget shows an error.
    """
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": path.parent}}
    client = NotebookClient(notebook, timeout=SECONDS, startup_timeout=SECONDS, resources=where)
    client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": Output}}
    try:
        client.execute()
    finally:
        nbformat.write(notebook, path)
    shown = [output for state in client.widget_state.values() for output in state.get("outputs", ())]
    for output in shown:
        if output["output_type"] == "error":
            raise RuntimeError("\n".join([f"{path}: a widget shows an error", *output["traceback"]]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Runs notebooks and leaves them with what they show.")
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.notebooks if not path.is_file()]:
        parser.error(f"no such notebook: {', '.join(missing)}")
    for path in arguments.notebooks:
        print(f"Running {path}", flush=True)
        execute(path.resolve())
