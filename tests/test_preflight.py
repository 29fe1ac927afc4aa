import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from nami_jax.config import ConfigError
from nami_jax.data.captioned_images import open_source
from nami_jax.host_checks.examination import examine
from nami_jax.host_checks.findings import FAILED, OK, WARNING, Finding, Report, summary_lines
from nami_jax.host_checks.storage import check_storage, clean
from tests.support import patience, xla
from tests.support.autoencoder_runs import make_autoencoder_run
from tests.support.paths import ROOT
from tests.support.runs import card_config

CONFIG = """
from ml_collections import ConfigDict
from tests.support.runs import card_config
def get_config():
    return ConfigDict(card_config({data_dir!r}).to_dict())
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    open_source(card_config(folder).data, "train")  # builds them
    return folder


@pytest.fixture(scope="module")
def config_file(data_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "cards.py"
    path.write_text(CONFIG.format(data_dir=str(data_dir)))
    return path


def look(cfg, workdir, **expected):
    """Returns the one line of each check on this host."""
    lines = {line.check: line for line in summary_lines(examine(cfg.to_dict(), workdir, **expected))}
    return lines, {line.check for line in lines.values() if line.status == FAILED}


def test_sound_run_passes_every_check_and_leaves_nothing_behind(data_dir, tmp_path):
    lines, _ = look(card_config(data_dir, mesh={"fsdp": 2}), tmp_path / "runs" / "mine", hosts=1, devices=8)
    assert [line.text for line in lines.values() if line.status != OK] == []
    assert lines["mesh"].text == "data 4 x fsdp 2 x tensor 1 x sequence 1"
    assert lines["settings"].text == "8 + 8 + 8 images per step"
    assert lines["data"].text.startswith("16 samples to train on; reads ")
    assert lines["samples"].text == "train [16], held_out [4]"
    assert not list((tmp_path / "runs" / "mine").iterdir())


def test_run_of_an_autoencoder_passes_too(data_dir, tmp_path):
    lines, _ = look(make_autoencoder_run(data_dir), tmp_path)
    assert [line.text for line in lines.values() if line.status != OK] == []
    assert lines["settings"].text == "8 images per step"


def test_devices_and_hosts_that_are_not_as_many_as_expected_are_counted(data_dir, tmp_path):
    lines, failed = look(card_config(data_dir), tmp_path, hosts=2, devices=16)
    assert failed == {"hosts", "devices"}
    assert lines["hosts"].text.startswith("expected_hosts = 2: 1 joined. Start the command on every host")
    assert lines["devices"].text.startswith("expected_devices = 16: jax sees 8 in all, 8 x cpu on this host.")


def test_batch_that_devices_cannot_share_is_named(data_dir, tmp_path):
    lines, failed = look(card_config(data_dir, train={"stage_batches": ((8, 8, 6),)}), tmp_path)
    assert failed == {"settings"}
    assert lines["settings"].text.startswith("train.stage_batches = (8, 8, 6): each stage's images must split evenly")


def test_mesh_that_does_not_fit_ends_what_depends_on_it_alone(data_dir, tmp_path):
    lines, failed = look(card_config(data_dir, mesh={"tensor": 3}), tmp_path)
    assert failed == {"mesh"}
    assert {"settings", "state"}.isdisjoint(lines)
    assert lines["storage"].status == OK


def test_state_that_the_mesh_cannot_split_is_named(data_dir, tmp_path):
    cfg = card_config(data_dir, mesh={"fsdp": 4}, model={"num_heads": 1, "rope_axes": (2, 2, 2)})
    lines, failed = look(cfg, tmp_path)
    assert failed == {"state"}
    assert re.match(r"mesh\.fsdp = 4: .* cannot be split by .*\. Set a divisor of 6, e\.g\. 2", lines["state"].text)


def test_field_that_cannot_work_is_named(data_dir, tmp_path):
    fields = card_config(data_dir).to_dict()
    fields["train"]["steps"] = 0
    lines = {line.check: line for line in summary_lines(examine(fields, tmp_path))}
    assert lines["fields"] == Finding("fields", FAILED, "train.steps = 0: must be at least 1. Set e.g. 10000.")
    assert "storage" not in lines


def test_workdir_that_cannot_be_written_is_named(data_dir, tmp_path):
    (tmp_path / "file").touch()
    lines, failed = look(card_config(data_dir), tmp_path / "file" / "run")
    assert failed == {"storage"}  # and whether other hosts see it is not asked
    assert lines["storage"].text.startswith(f"workdir = '{tmp_path}/file/run': a file is in the way. Set another")


def test_storage_too_small_or_too_slow_for_the_checkpoints_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has .* GB free for checkpoints of 1e\+06 GB\. Free some space"):
        check_storage(tmp_path, checkpoint=10**15, keep=1)
    with pytest.raises(ConfigError, match=r"writes \d+ MB/s, .* Set a folder that can be written at 1000000 MB/s"):
        check_storage(tmp_path, checkpoint=10**6, keep=1, floor=1e12)
    free = shutil.disk_usage(tmp_path).free
    scarce = check_storage(tmp_path, checkpoint=free // 2, keep=2)
    assert scarce.status == WARNING
    assert "lower train.keep_checkpoints" in scarce.text
    clean(tmp_path)
    assert not list(tmp_path.iterdir())


def test_data_that_are_not_there_yet_are_not_built(tmp_path):
    lines, _ = look(card_config(tmp_path / "data"), tmp_path / "run")
    assert lines["data"].status == WARNING
    assert lines["data"].text.startswith(f"plain_cards is not in {tmp_path}/data yet.")
    assert not (tmp_path / "data").exists()


def test_prepared_data_that_are_missing_are_named(data_dir, tmp_path):
    lines, failed = look(
        card_config(data_dir, data={"prepared": str(tmp_path / "none")}, autoencoder={"folder": "vae"}), tmp_path
    )
    assert failed == {"data"}
    assert lines["data"].text.startswith(f"data.prepared = '{tmp_path}/none': has no prepared.json")


def test_weights_to_start_from_are_looked_for_unless_the_run_goes_on_without_them(data_dir, tmp_path):
    cfg = card_config(data_dir, train={"init_from": str(tmp_path / "none")})
    lines, failed = look(cfg, tmp_path / "run")
    assert failed == {"weights"}
    assert lines["weights"].text.startswith(f"train.init_from = '{tmp_path}/none': contains no converted weights")
    (tmp_path / "run" / "checkpoints" / "7").mkdir(parents=True)
    lines, failed = look(cfg, tmp_path / "run")
    assert "weights" not in lines
    assert not failed


def test_table_shows_the_costliest_of_the_well_and_names_the_hosts_of_the_worst():
    def report(host, storage, status=OK, version="1"):
        fast = Finding("storage", OK, f"{storage} s", cost=storage)
        return Report(host, [fast, Finding("data", status, "lost")], {"versions": {"jax": version}})

    lines = summary_lines([report("a", 1), report("b", 3, FAILED), report("c", 2, FAILED, version="2")])
    assert [(line.check, line.status, line.text) for line in lines] == [
        ("versions", FAILED, "jax = 2 on c, 1 on a. Give every host the same code, packages, config and flags."),
        ("storage", OK, "3 s"),
        ("data", FAILED, "b, c: lost"),
    ]


def start(config_file, workdir, *arguments):
    """Starts the command as on a host of its own, with four devices."""
    command = [
        sys.executable,
        "-m",
        "nami_jax.preflight",
        f"--config={config_file}",
        f"--workdir={workdir}",
        *arguments,
    ]
    env = os.environ | {"XLA_FLAGS": xla.flags(devices=4)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def two_hosts(config_file, *workdirs, second=()):
    """Runs the command on two hosts and returns (exit code, output, errors) of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = (f"--coordinator_address={address}", "--num_processes=2", "--expected_devices=8", "--expected_hosts=2")
    processes = [
        start(config_file, workdir, *shared, f"--process_id={i}", *(second if i else ()))
        for i, workdir in enumerate(workdirs)
    ]
    outputs = [patience.finish(process, 120) for process in processes]
    return [
        (process.returncode, re.sub(r"^\[Gloo\].*\n", "", out, flags=re.MULTILINE), err)
        for process, (out, err) in zip(processes, outputs, strict=True)
    ]


def test_two_sound_hosts_pass_and_the_first_shows_one_table(config_file, tmp_path):
    (code, out, err), (second_code, second_out, second_err) = two_hosts(config_file, tmp_path, tmp_path)
    assert (code, second_code) == (0, 0), err + second_err
    assert second_out == ""
    assert [line.split()[0] for line in out.splitlines()[:-1]] == ["ok"] * 11, out
    assert "devices   8 x cpu, 4 on each host" in out
    assert "shared    the workdir is the same on all hosts" in out
    assert out.splitlines()[-1].startswith("preflight passed in ")


def test_host_with_another_config_and_a_folder_of_its_own_is_named(config_file, tmp_path):
    folders = tmp_path / "a", tmp_path / "b"
    results = two_hosts(config_file, *folders, second=["--config.train.steps=13"])
    assert [code for code, _, _ in results] == [1, 1]
    lines = {line.split()[1]: line for line in results[0][1].splitlines()}
    here = socket.gethostname()
    assert f"config.train.steps = 13 on {here} (process 1), 12 on {here} (process 0)" in lines["config"]
    assert f"{here} (process 1): workdir = '{folders[1]}': this host does not see what processes [0]" in lines["shared"]
    assert {line.split()[1] for line in lines.values() if line.startswith("FAILED")} == {"config", "shared"}
    assert all("preflight failed: config, shared" in err for _, _, err in results)


def test_missing_host_ends_the_wait_with_a_message(config_file, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plain = (f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2", "--process_id=0")
    process = start(config_file, tmp_path, *plain, "--initialization_timeout=1")
    _, err = patience.finish(process, 60)
    assert process.returncode == 1
    assert "error: initialization_timeout = 1: " in err
    assert "not all joined. Start the same command on every host" in err
