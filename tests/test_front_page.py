"""What the README says: its examples run, its links work elsewhere too, and it stays short."""

import re
from pathlib import Path

import pytest
import tiny
from datasets import Dataset

from trl_lambda import LambdaGRPOConfig
from trl_lambda.methods import METHODS
from trl_lambda.rule import resolve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    [ROOT / "README.md", *ROOT.glob("trl_lambda/**/*.md"), *ROOT.glob("recipes/**/*.md")]
)
BLOB = "https://github.com/trl-lambda/trl-lambda/blob/main/"
RAW = "https://raw.githubusercontent.com/trl-lambda/trl-lambda/main/"


def example(name: str) -> str:
    """The code block behind a marker."""
    return re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", README, re.S)[1]


@pytest.fixture
def model(tmp_path) -> str:
    """A folder with the tiny model and its tokenizer, as a name on the Hub would give."""
    folder = tmp_path / "model"
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def test_the_td_error_of_the_readme_trains(tmp_path, model):
    code = example("td_error")
    definition = code[: code.index("trainer =")].strip()
    assert len([line for line in definition.splitlines() if line.strip()]) <= 10
    names = {
        "model": model,
        "reward_func": tiny.letter_reward,
        "args": tiny.config(LambdaGRPOConfig, tmp_path / "run", **tiny.DEFAULT),
        "dataset": tiny.prompts(),
    }
    exec(code, names)
    names["trainer"].train()
    assert names["trainer"]._rule.td_error is names["where_undecided"]


def test_the_training_of_the_readme_trains(tmp_path, model):
    code = example("train").replace('"Qwen/Qwen2.5-1.5B"', repr(model))
    small = "use_cpu=True, bf16=False, max_steps=1, max_completion_length=8, report_to='none', "
    code = code.replace('output_dir="run", ', f"output_dir={str(tmp_path / 'run')!r}, {small}")
    rows = [{"prompt": f"{i}+1=", "answers": [str(i + 1)]} for i in range(8)]
    names = {"dataset": Dataset.from_list(rows)}
    exec(code, names)
    assert names["trainer"].state.global_step == 1


def test_the_grading_of_the_readme_is_right():
    code = example("grade")
    call, said = re.search(r"^(grade\(.*\))  # (.*)$", code, re.M).groups()
    names: dict = {}
    exec(code, names)
    assert repr(eval(call, names)) == said


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 250


def test_the_readme_has_every_method():
    for name in METHODS:
        assert re.search(rf"^\| (`\w+`, )*`{name}`(, `\w+`)* \|", README, re.M), name


def test_the_log_line_of_the_readme_is_what_is_logged():
    said = re.search(r"LambdaGRPOTrainer: (method='default' .*?)\n\n", README, re.S)[1]
    trl = {"loss_type": "dapo", "scale_rewards": "group"}
    assert " ".join(said.split()) == resolve({}).describe(trl)


def test_the_readme_lists_every_folder_of_the_package():
    section = README.split("## Folders")[1].split("\n## ")[0]
    for folder in (ROOT / "trl_lambda").iterdir():
        if (folder / "__init__.py").is_file():
            assert f" {folder.name}/ " in section.replace("\n", " "), folder.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """The front page is shown on PyPI as well, where relative links lead nowhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith((BLOB, RAW)):
            path = ROOT / target.removeprefix(BLOB).removeprefix(RAW).split("#")[0]
            assert path.exists(), target
        elif not target.startswith(("http", "#")):
            assert page != ROOT / "README.md", f"{target} is relative"
            assert (page.parent / target.split("#")[0]).exists(), target


def test_the_table_of_methods_is_the_package_s():
    block = (ROOT / "trl_lambda" / "README.md").read_text().split("<!-- methods -->")[1]
    rows = [line for line in block.splitlines() if line.startswith("| `")]
    assert rows[1:] == [row(name) for name in METHODS]  # the header comes first


def row(name: str) -> str:
    preset = METHODS[name]
    values = [f"`{o}: {shown(value)}`" for o, (value, _) in preset.values.items()]
    return f"| `{name}` | {preset.paper} | {preset.when} | {', '.join(values) or 'nothing'} |"


def shown(value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
