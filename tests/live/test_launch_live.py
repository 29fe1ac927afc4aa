"""The commands that the launchers show, and those of launch/README.md, parsed by the tools that they call.

xpk and SkyPilot are in the dependency group `launch`, which `make launch-check` installs;
gcloud and kubectl serve where the machine has them. Each parses in a process of its own, and nothing is run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.paths import ROOT

if not (find_spec("xpk") and find_spec("sky")):
    pytest.skip("xpk and SkyPilot are not installed", allow_module_level=True)

LAUNCH = ROOT / "launch"
CLOUD = ("--project=my-project", "--zone=us-central1-a")
RUN = ("--config=configs/emoji_tiny.py", "--workdir=runs/it's mine", "--env_file=run.env", "--", "--config.x=a b")
TPU = ("--name=nami", "--accelerator_type=v5litepod-256", "--bucket=my-bucket", *CLOUD)
GKE = ("--name=nami", "--accelerator_type=v5litepod-16", "--cluster=my-cluster", *CLOUD)

# Programs that parse every command line that they are given as JSON, without the tool's name; an error ends them.
XPK = """
import argparse, json, sys
from xpk.parser.core import set_parser
parser = argparse.ArgumentParser()
set_parser(parser)
for words in json.loads(sys.argv[1]):
    parser.parse_args(words)
"""
SKY = """
import click, json, sys
from sky.client.cli import command
for words in json.loads(sys.argv[1]):
    found = command.cli
    while isinstance(found, click.Group):
        found, words = found.commands[words[0]], words[1:]
    found.make_context("sky", words)
"""
GCLOUD = """
import json, os, sys
root = sys.argv[2]
sys.path[:0] = [os.path.join(root, "lib"), os.path.join(root, "lib", "third_party")]
from googlecloudsdk import gcloud_main
cli = gcloud_main.CreateCLI([])
for words in json.loads(sys.argv[1]):
    cli._CLI__parser.parse_args(words)
"""
TASK = """
import sky, sys, yaml
values = [("BUCKET", "my-bucket"), ("CONFIG", "c"), ("WORKDIR", "w")]
task = sky.Task.from_yaml_config(yaml.safe_load(open(sys.argv[1])), env_overrides=values)
print(task.num_nodes, next(iter(task.resources)).accelerators, task.storage_mounts["/bucket"].source)
"""


def shown(script: str, *arguments: str) -> list[list[str]]:
    env = os.environ | {"DRY_RUN": "1"}
    run = subprocess.run([LAUNCH / script, *arguments], env=env, capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in run.stdout.splitlines()]


def readme() -> list[list[str]]:
    blocks = re.findall(r"^```\n(.*?)^```", (LAUNCH / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if "launch/" not in line.split(" ")[0]]


def commands(tool: str) -> list[list[str]]:
    """Returns every command line of `tool` that the launchers show or the README has."""
    all_commands = [
        *shown("tpu.sh", "up", *TPU, "--provisioning=spot", "--service_account=a@b", *RUN),
        *(shown("tpu.sh", action, *TPU)[0] for action in ("logs", "stop", "status", "delete")),
        *shown("gke.sh", "storage", *GKE, "--bucket=my-bucket"),
        *shown("gke.sh", "start", *GKE, *RUN),
        *(shown("gke.sh", action, *GKE)[0] for action in ("logs", "delete")),
        *readme(),
    ]
    return [words for words in all_commands if words[0] == tool]


def python(program: str, *arguments: str, home: Path, executable: str = sys.executable) -> tuple[int, str, str]:
    env = os.environ | {"HOME": str(home), "CLOUDSDK_CONFIG": str(home), "WANDB_API_KEY": "secret"}
    command = [executable, "-c", program, *arguments]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    return run.returncode, run.stdout, run.stderr


def parse(tool: str, program: str, *more: str, home: Path, executable: str = sys.executable) -> None:
    """Has a tool parse all of its command lines, and one with an argument that no tool knows."""
    lines = commands(tool)
    assert len(lines) >= 2
    # Folders must exist; what is in them is not looked at.
    words = [[re.sub(r"^(--script-dir|--workdir)=.*", rf"\1={home}", word) for word in line[1:]] for line in lines]
    code, _, err = python(program, json.dumps(words), *more, home=home, executable=executable)
    assert code == 0, err
    wrong = [[*words[0], "--no-such-thing=1"]]
    code, _, err = python(program, json.dumps(wrong), *more, home=home, executable=executable)
    assert code != 0
    assert "no-such-thing" in err


def test_xpk_understands_its_commands(tmp_path):
    parse("xpk", XPK, home=tmp_path)


def test_skypilot_understands_its_commands(tmp_path):
    parse("sky", SKY, home=tmp_path)


def test_skypilot_reads_the_task(tmp_path):
    _, out, err = python(TASK, str(LAUNCH / "sky.yaml"), home=tmp_path)
    assert out == "2 {'H100': 8} gs://my-bucket\n", err


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gcloud_understands_its_commands(tmp_path):
    root = Path(str(shutil.which("gcloud"))).resolve().parents[1]
    bundled = root / "platform" / "bundledpythonunix" / "bin" / "python3"
    parse("gcloud", GCLOUD, str(root), home=tmp_path, executable=str(bundled) if bundled.exists() else "python3")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_understands_its_command(tmp_path):
    (words,) = commands("kubectl")
    env = os.environ | {"HOME": str(tmp_path), "KUBECONFIG": ""}
    for more, answer in ([], "connection"), (["--no-such-thing"], "unknown flag"):
        command = [*words, "--server=http://127.0.0.1:1", *more]
        assert answer in subprocess.run(command, env=env, capture_output=True, text=True, timeout=60).stderr
