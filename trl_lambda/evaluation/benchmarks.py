"""The benchmarks: frozen rows that say where a set is and what it must contain.

A SHA-256 is of the problems and answers in order (`problem_sets.fingerprint`) and was computed from
the copies published with "Understanding R1-Zero-Like Training" (sail-sg/understand-r1-zero). The
Hub itself could not be reached when these rows were written: ids, splits, columns and row counts
were read in public evaluation code that loads these sets, and so were the revisions (each in
several repositories; where none was found there is none). So a Hub copy that differs from the hash
need not be wrong, but it is never used unseen: loading it is an error that says how to accept it.

`default_k` is ours: about a thousand samples a set, but 4 where problems are many.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One row.

    Attributes:
        name: Its name on the command line.
        hub_id: Data set on the Hugging Face Hub.
        config: Its configuration, `None` for the only one.
        split: Its split.
        problem_column: Column of the problem's text.
        answer_column: Column of the answer: text, number, a list of either, any of which is right,
            or a worked solution that marks its answer.
        num_problems: The number of rows it must have.
        sha256: The hash its content must have; `None` where nothing is known to compare with.
        revision: Commit of the Hub's copy; `None` for the newest.
        template: The prompt template used unless another is asked for.
        default_k: The samples a problem drawn unless another number is asked for.
        unchecked: Names the facts that could not be checked, for the warning on load; or empty.
    """

    name: str
    hub_id: str
    config: str | None = None
    split: str
    problem_column: str = "problem"
    answer_column: str = "answer"
    num_problems: int
    sha256: str | None
    revision: str | None
    template: str = "qwen_math"
    default_k: int
    unchecked: str = ""


_ROWS = (
    Benchmark(
        name="aime24",
        hub_id="HuggingFaceH4/aime_2024",
        split="train",
        num_problems=30,
        sha256="a8596c3f11c4534a1159d0db4b09dd22db1fa9199ae892e6b6eb8082e1ae499e",
        revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        default_k=32,
    ),
    Benchmark(
        # AMC 12 of 2022 and 2023, 83 problems, as the papers use it; another AMC23 has 40.
        name="amc23",
        hub_id="AI-MO/aimo-validation-amc",
        split="train",
        num_problems=83,
        sha256="8f3fec20a95aef793bc3a4be38a5bbca007134f8f09238dbd2094154761aaf93",
        revision="69d78a4a2c840e82d69af6bc742bda09005f6316",
        default_k=16,
    ),
    Benchmark(
        name="math500",
        hub_id="HuggingFaceH4/MATH-500",
        split="test",
        num_problems=500,
        sha256="9a33c8f9aaf972ea8f43e098bcddb0698798a10baf7ee7404d967227192a5c0d",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        default_k=4,
    ),
    Benchmark(
        name="minerva_math",
        hub_id="knoveleng/Minerva-Math",
        split="train",
        answer_column="solution",
        num_problems=272,
        sha256=None,
        revision=None,
        default_k=4,
        unchecked="its id, columns and 272 rows were read in other projects' code, and no copy was "
        "at hand; others load math-ai/minervamath (split test, columns question and answer)",
    ),
    Benchmark(
        # 675 problems; Hothan/OlympiadBench and math-ai/olympiadbench have 674.
        name="olympiadbench",
        hub_id="knoveleng/OlympiadBench",
        split="train",
        problem_column="question",
        num_problems=675,
        sha256="c1b1e4616ddee6cae7dd3ce2fc0b8d0b97e1251e0b4777152dc532fbe13fa818",
        revision=None,
        default_k=4,
    ),
    Benchmark(
        name="gsm8k",
        hub_id="openai/gsm8k",
        config="main",
        split="test",
        problem_column="question",
        num_problems=1319,
        sha256=None,
        revision="740312add88f781978c0658806c59bc2815b9866",
        default_k=4,
        unchecked="the copy at hand mixes the training and the test split, so the test problems "
        "have no hash of their own",
    ),
)

BENCHMARKS: dict[str, Benchmark] = {row.name: row for row in _ROWS}
