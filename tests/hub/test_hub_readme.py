"""The README of the Hub: its example builds, its lines are those that are printed."""

import re
import shlex
from pathlib import Path

from trl_lambda.hub.push import Push
from trl_lambda.hub.secrets import is_secret_name

TEXT = (Path(__file__).parents[2] / "trl_lambda" / "hub" / "README.md").read_text("utf-8")


def lines(beginning):
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith(beginning)]


def test_the_example_builds():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    scope: dict = {}
    exec(code.replace("push_to_hub=True,", "push_to_hub=True, use_cpu=True, bf16=False,"), scope)
    assert scope["args"].hub_private_repo


def test_the_line_that_retries_is_the_one_that_is_printed():
    (line,) = lines("hf upload")
    push = Push("somebody/my-model", Path("outputs/grpo_lambda"), private=True)
    printed = shlex.split(push.command)
    printed[3] = "outputs/grpo_lambda"  # the message has the absolute path
    assert sorted(shlex.split(line)) == sorted(printed)


def test_the_names_of_secrets_are_told():
    names = re.search(r"their names \((.*?), …\)", TEXT, re.S)[1]
    assert all(is_secret_name(name) for name in re.findall(r"`([^`]+)`", names))


def test_the_training_script_of_the_line_exists():
    (line,) = lines("accelerate launch")
    assert (Path(__file__).parents[2] / shlex.split(line)[2]).is_file()
