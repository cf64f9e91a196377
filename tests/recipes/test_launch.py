"""Launch files: linted by their own tools, the README's commands inside, run with stand-ins."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from trl.scripts.vllm_serve import ScriptArguments as ServerArguments
from trl.scripts.vllm_serve import build_command

from trl_lambda.scripts.train import make_parser

RECIPES = Path(__file__).parents[2] / "recipes"
LAUNCH = RECIPES / "launch"
CONFIG = "recipes/configs/dr_grpo_qwen2.5_math_7b.yaml"

# Every stand-in notes what it was given, then does what the test planned for its host.
STAND_IN = """#!{python}
import json, os, sys, time
host = os.environ.get("SLURMD_NODENAME", "here")
note = {{"program": "{name}", "host": host, "words": sys.argv[1:], "pid": os.getpid(),
        "dev_mode": os.environ.get("VLLM_SERVER_DEV_MODE")}}
with open(os.environ["NOTES"], "a") as file:
    file.write(json.dumps(note) + "\\n")
plan = json.loads(os.environ["PLAN"])
seconds, status = plan.get("{name} " + host, plan["{name}"])
time.sleep(seconds)
sys.exit(status)
"""
# One process per host of --nodelist; like srun it ends the others when one fails, if told to.
SRUN = """#!{python}
import os, signal, subprocess, sys, time
words = sys.argv[1:]
options = {{}}
while words[0].startswith("--"):
    name, _, value = words.pop(0).partition("=")
    options[name] = value
hosts = options["--nodelist"].split(",")
assert int(options["--nodes"]) == int(options["--ntasks"]) == len(hosts), options
steps = []
def end(*_):
    for step in steps:
        if step.poll() is None:
            os.killpg(step.pid, signal.SIGKILL)
signal.signal(signal.SIGTERM, lambda *_: (end(), sys.exit(143)))
for rank, host in enumerate(hosts):
    slurm = {{"SLURM_NODEID": str(rank), "SLURM_PROCID": str(rank), "SLURMD_NODENAME": host}}
    steps.append(subprocess.Popen(words, env=os.environ | slurm, start_new_session=True))
worst = 0
while any(step.poll() is None for step in steps):
    failed = [step.returncode for step in steps if step.poll()]
    if failed and "--kill-on-bad-exit" in options:
        end()
        sys.exit(failed[0])
    time.sleep(0.05)
sys.exit(max(abs(step.returncode) for step in steps))
"""
SCONTROL = """#!/bin/sh
[ "$1 $2" = "show hostnames" ] && [ "$3" = "$SLURM_JOB_NODELIST" ] && printf '%s\\n' $HOSTS
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A PATH of stand-ins; `cluster(script, hosts, plan)` runs a script, gives it and the notes."""
    programs = tmp_path / "programs"
    programs.mkdir()
    texts = {
        "accelerate": STAND_IN.format(python=sys.executable, name="accelerate"),
        "vllm": STAND_IN.format(python=sys.executable, name="vllm"),
        "srun": SRUN.format(python=sys.executable),
        "scontrol": SCONTROL,
    }
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    notes = tmp_path / "notes"

    def run(command: list[str], *, hosts=(), plan=None, **variables: str):
        notes.write_text("")
        everything = {"accelerate": [1, 0], "vllm": [120, 0]} | (plan or {})
        environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "NOTES": str(notes),
            "PLAN": json.dumps(everything),
            "HOSTS": " ".join(hosts),
            "SLURM_JOB_NODELIST": "n[0-9]",
            "SLURM_JOB_NUM_NODES": str(len(hosts)),
            **variables,
        }
        done = subprocess.run(
            command,
            cwd=RECIPES.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        noted = [json.loads(line) for line in notes.read_text().splitlines()]
        return done, noted

    return run


@pytest.fixture
def slurm(cluster):
    def run(hosts: int, *options: str, plan=None, **variables: str):
        names = [f"n{i}" for i in range(hosts)]
        command = ["bash", str(LAUNCH / "slurm.sh"), CONFIG, *options]
        return cluster(command, hosts=names, plan=plan, **variables)

    return run


def only(noted: list[dict], program: str) -> list[dict]:
    return sorted((n for n in noted if n["program"] == program), key=lambda note: note["host"])


def launch_of(note: dict):
    """What accelerate's own parser makes of the words."""
    verb, *words = note["words"]
    assert verb == "launch"
    return launch_command_parser().parse_args(words)


@pytest.fixture
def training_of(monkeypatch):
    """What the recipe's own parser makes of the words after it."""
    monkeypatch.chdir(RECIPES.parent)

    def parse(launch):
        assert launch.training_script == "recipes/grpo_lambda.py"
        words = [*launch.training_script_args, "--use_cpu"]
        return make_parser().parse_args_and_config(words)

    return parse


def assert_none_left(noted: list[dict]) -> None:
    """No stand-in outlives the script, or not for long."""
    left = {note["pid"] for note in noted}
    for _ in range(50):
        left = {pid for pid in left if Path(f"/proc/{pid}").exists()}
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"still running: {left}")


# --- SLURM ---


@pytest.mark.slow
def test_slurm_on_one_node_trains_there_with_vllm_inside(slurm, training_of):
    done, noted = slurm(1, "--max_steps", "7")
    assert done.returncode == 0, done.stderr
    assert only(noted, "vllm") == []
    (note,) = only(noted, "accelerate")
    launch = launch_of(note)
    assert (launch.num_machines, launch.num_processes, launch.machine_rank) == (1, 8, 0)
    config = training_of(launch)[2]
    assert (config.vllm_mode, config.max_steps) == ("colocate", 7)
    assert config.resume_from_checkpoint == "last"


@pytest.mark.slow
def test_slurm_on_three_nodes_serves_on_the_last(slurm, training_of):
    done, noted = slurm(3, "--max_steps", "7", GPUS="4", ENGINE="fsdp2")
    assert done.returncode == 0, done.stderr
    (server,) = only(noted, "vllm")
    assert server["host"] == "n2"
    trainers = only(noted, "accelerate")
    assert [note["host"] for note in trainers] == ["n0", "n1"]
    launches = [launch_of(note) for note in trainers]
    assert [launch.machine_rank for launch in launches] == [0, 1]
    for launch in launches:
        assert (launch.num_machines, launch.num_processes) == (2, 8)
        assert (launch.main_process_ip, launch.main_process_port) == ("n0", 29500)
        assert launch.config_file == "recipes/accelerate/fsdp2.yaml"
        assert launch.deepspeed_multinode_launcher == "standard"
        config = training_of(launch)[2]
        assert (config.vllm_mode, config.max_steps) == ("server", 7)
        assert config.vllm_server_base_url == "http://n2:8000"
    assert_none_left(noted)  # the server too


@pytest.mark.slow
def test_slurm_server_has_the_model_of_the_file_and_what_trl_imposes(slurm):
    _, noted = slurm(2)
    (server,) = only(noted, "vllm")
    words = server["words"]
    assert words[:2] == ["serve", "Qwen/Qwen2.5-Math-7B"]
    assert words[words.index("--max-model-len") + 1] == "4024"
    assert server["dev_mode"] == "1"
    theirs = build_command(ServerArguments(model="m"))
    for option in ("--weight-transfer-config", "--logprobs-mode", "--max-logprobs"):
        assert words[words.index(option) + 1] == theirs[theirs.index(option) + 1]


@pytest.mark.slow
@pytest.mark.parametrize("host", ["n0", "n1"])
def test_slurm_stops_all_when_one_trainer_fails(slurm, host):
    other = {"n0": "n1", "n1": "n0"}[host]
    plan = {f"accelerate {host}": [0.5, 3], f"accelerate {other}": [120, 0]}
    started = time.monotonic()
    done, noted = slurm(3, plan=plan)
    assert done.returncode == 3
    assert time.monotonic() - started < 20
    assert "training ended with status 3" in done.stderr
    assert_none_left(noted)


@pytest.mark.slow
@pytest.mark.parametrize(("status", "expected"), [(4, 4), (0, 1)])
def test_slurm_stops_training_when_the_server_ends(slurm, status, expected):
    plan = {"vllm": [1.5, status], "accelerate": [120, 0]}
    done, noted = slurm(3, plan=plan)
    assert done.returncode == expected
    assert "vLLM server on n2 ended before training did" in done.stderr
    assert len(noted) == 3
    assert_none_left(noted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a file of recipes/configs"),
        (["nowhere.yaml"], "got 'nowhere.yaml'"),
        ([CONFIG, "--model_name_or_path", "other"], "the server reads them there"),
    ],
)
def test_slurm_refuses_what_cannot_work(cluster, arguments, message):
    command = ["bash", str(LAUNCH / "slurm.sh"), *arguments]
    done, noted = cluster(command, hosts=["n0", "n1"])
    assert done.returncode == 2
    assert message in done.stderr
    assert noted == []


@pytest.mark.slow
def test_slurm_refuses_hosts_that_are_not_the_jobs(slurm):
    done, noted = slurm(2, SLURM_JOB_NUM_NODES="3")
    assert done.returncode == 2
    assert "named 2 hosts" in done.stderr
    assert noted == []


@pytest.mark.slow
def test_slurm_refuses_a_file_without_the_servers_length(cluster, tmp_path):
    path = tmp_path / "short.yaml"
    text = (RECIPES.parent / CONFIG).read_text()
    path.write_text(re.sub(r"(?m)^vllm_max_model_length.*\n", "", text))
    done, noted = cluster(["bash", str(LAUNCH / "slurm.sh"), str(path)], hosts=["n0", "n1"])
    assert done.returncode == 2
    assert "does not set vllm_max_model_length" in done.stderr
    assert noted == []


# --- SkyPilot and Kubernetes ---


def sky() -> dict:
    return yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())


def kubernetes() -> tuple[dict, dict]:
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    return service, job


def container() -> dict:
    (found,) = kubernetes()[1]["spec"]["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize("rank", [0, 1])
def test_skypilot_gives_each_node_its_rank(cluster, training_of, rank):
    # There is no environment to activate here; the rest runs as it stands.
    script = sky()["run"].replace("source .venv/bin/activate\n", "")
    assert script != sky()["run"]
    variables = {
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    }
    done, noted = cluster(["bash", "-c", script], **variables, **sky()["envs"])
    assert done.returncode == 0, done.stderr
    check_machine(noted, training_of, rank, "10.0.0.5", sky()["envs"]["OUTPUT_DIR"])


@pytest.mark.parametrize("rank", [0, 1])
def test_kubernetes_gives_each_pod_its_rank(cluster, training_of, rank):
    variables = {entry["name"]: entry["value"] for entry in container()["env"]}
    command = [*container()["command"], *container()["args"]]
    done, noted = cluster(command, **variables, JOB_COMPLETION_INDEX=str(rank))
    assert done.returncode == 0, done.stderr
    check_machine(noted, training_of, rank, "trl-lambda-0.trl-lambda", variables["OUTPUT_DIR"])


def check_machine(noted, training_of, rank, head, output_dir):
    launch = launch_of(*only(noted, "accelerate"))
    assert (launch.num_machines, launch.num_processes, launch.machine_rank) == (2, 16, rank)
    assert (launch.main_process_ip, launch.main_process_port) == (head, 29500)
    config = training_of(launch)[2]
    assert (config.vllm_mode, config.output_dir) == ("colocate", output_dir)


@pytest.mark.parametrize("platform", ["skypilot", "kubernetes"])
def test_failure_of_training_is_the_failure_of_the_script(cluster, platform):
    plan = {"accelerate": [0, 5]}
    if platform == "kubernetes":
        command = [*container()["command"], *container()["args"]]
        variables = {entry["name"]: entry["value"] for entry in container()["env"]}
        variables |= {"JOB_COMPLETION_INDEX": "0"}
    else:
        command = ["bash", "-c", sky()["run"].replace("source .venv/bin/activate\n", "")]
        names = ("NUM_NODES", "NODE_RANK", "NODE_IPS", "NUM_GPUS_PER_NODE")
        variables = {f"SKYPILOT_{name}": "1" for name in names} | sky()["envs"]
    assert cluster(command, plan=plan, **variables)[0].returncode == 5


def test_skypilot_does_not_train_without_its_environment(cluster):
    script = sky()["run"].replace(".venv", "nowhere")
    names = ("NUM_NODES", "NODE_RANK", "NODE_IPS", "NUM_GPUS_PER_NODE")
    variables = {f"SKYPILOT_{name}": "1" for name in names} | sky()["envs"]
    done, noted = cluster(["bash", "-c", script], **variables)
    assert done.returncode != 0
    assert noted == []


def test_kubernetes_names_agree():
    service, job = kubernetes()
    name, spec = job["metadata"]["name"], job["spec"]
    variables = {entry["name"]: entry["value"] for entry in container()["env"]}
    assert service["spec"]["selector"] == {"job-name": name}
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert variables["HEAD"] == f"{name}-0.{service['metadata']['name']}"
    assert spec["completions"] == spec["parallelism"] == int(variables["MACHINES"])
    assert container()["resources"]["limits"]["nvidia.com/gpu"] == int(variables["GPUS"])
    assert spec["backoffLimit"] == 0  # the first failure ends the Job


@pytest.mark.parametrize("platform", ["skypilot", "kubernetes"])
def test_default_settings_name_files_that_are_there(platform):
    variables = (
        sky()["envs"]
        if platform == "skypilot"
        else {entry["name"]: entry["value"] for entry in container()["env"]}
    )
    assert (RECIPES.parent / variables["CONFIG"]).is_file()
    assert variables["ENGINE"] in ("ddp", "zero2", "zero3", "fsdp2")


# --- One wording with recipes/README.md ---


def one_line(text: str) -> str:
    return " ".join(text.replace("\\\n", " ").split())


def readme_command(name: str) -> str:
    text = (RECIPES / "README.md").read_text()
    return one_line(re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)```", text, re.S)[1])


@pytest.mark.parametrize(
    ("file", "commands"),
    [
        ("slurm.sh", ["machines", "server"]),
        ("skypilot.yaml", ["install", "machines"]),
        ("kubernetes.yaml", ["machines"]),
        ("Dockerfile", ["install"]),
    ],
)
def test_commands_are_those_of_the_readme(file, commands):
    text = one_line((LAUNCH / file).read_text())
    for name in commands:
        assert readme_command(name) in text, name
    for program in ("accelerate launch", "vllm serve", "pip install"):
        said = sum(readme_command(name).count(program) for name in commands)
        assert text.count(program) == said, program  # and no other


@pytest.mark.parametrize("file", ["slurm.sh", "skypilot.yaml", "kubernetes.yaml", "Dockerfile"])
def test_readme_says_how_to_start_as_the_file_does(file):
    rows = (RECIPES / "README.md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith(f"| [`launch/{file}`]")]
    start = row.split("|")[2].strip().strip("`")
    assert f"#     {start}\n" in (LAUNCH / file).read_text()


# --- Lint ---


def tool(name: str) -> str:
    """A program beside this Python or on the PATH; none is a failure, never a skip."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is not installed: pip install -e '.[test]'"
    return found


def shell_scripts() -> dict[str, str]:
    head = "#!/usr/bin/env bash\n"
    return {
        "slurm.sh": (LAUNCH / "slurm.sh").read_text(),
        "skypilot setup": head + sky()["setup"],
        "skypilot run": head + sky()["run"],
        "kubernetes": head + "".join(container()["args"]),
    }


@pytest.mark.parametrize("name", shell_scripts())
def test_shell_scripts_pass_bash_and_shellcheck(name):
    text = shell_scripts()[name]
    for command in (["bash", "-n"], [tool("shellcheck"), "--exclude=SC1091", "-"]):
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr


def test_dockerfile_passes_hadolint():
    command = [tool("hadolint"), "--failure-threshold", "style", str(LAUNCH / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dockerfile_copies_what_is_there():
    text = (LAUNCH / "Dockerfile").read_text()
    for sources in re.findall(r"(?m)^COPY (.*) \S+$", text):
        for source in sources.split():
            assert (RECIPES.parent / source).exists(), source


@pytest.mark.parametrize("version", ["1.28", "1.34"])
def test_kubernetes_objects_fit_the_schema(version):
    for thing in kubernetes():
        kubernetes_validate.validate(thing, version, strict=True)


@pytest.mark.skypilot
def test_skypilot_itself_reads_its_file(tmp_path):
    """In SkyPilot's own environment, whose Python stands beside its `sky`."""
    python = Path(tool("sky")).parent / "python"
    script = (
        "import json, sys, sky; task = sky.Task.from_yaml(sys.argv[1]);"
        "print(json.dumps([task.num_nodes, sorted(task.envs), sorted(task.secrets)]))"
    )
    done = subprocess.run(
        [str(python), "-c", script, str(LAUNCH / "skypilot.yaml")],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    nodes, variables, secrets = json.loads(done.stdout.splitlines()[-1])
    assert (nodes, secrets) == (2, ["HF_TOKEN"])
    assert {"CONFIG", "ENGINE", "OUTPUT_DIR"} <= set(variables)
