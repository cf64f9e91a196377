"""Rows to train on: from the Hub, from local files, or a mixture."""

from pathlib import Path

from datasets import Dataset, IterableDataset, load_dataset
from trl import DatasetMixtureConfig, ScriptArguments, get_dataset

Data = Dataset | IterableDataset
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


def load_split(
    script: ScriptArguments, mixture: DatasetMixtureConfig, split: str, option: str
) -> Data:
    """The rows of one split.

    Args:
        script, mixture: the user's options for the data.
        split: its name; with --dataset_name also a slice, such as `train[:90%]`.
        option: the option that `split` comes from, for messages.

    Raises:
        ValueError: no data set or two of them, options that nothing would read, a missing file,
            or a split that is not there.
    """
    _check_one_source(script, mixture)
    if mixture.datasets:
        parts = get_dataset(mixture)
        if split not in parts:
            raise ValueError(
                f"{option} {split}: the mixture has {', '.join(parts)}. test_split_size makes a "
                "test split."
            )
        return parts[split]
    path, options = _source(script)
    try:
        return load_dataset(path, split=split, streaming=script.dataset_streaming, **options)
    except ValueError as error:
        if "split" not in str(error):
            raise
        raise ValueError(
            f"{option} {split}: {error} Slices of a split can be named too, such as train[:95%] "
            "and train[95%:]."
        ) from error


def _check_one_source(script: ScriptArguments, mixture: DatasetMixtureConfig) -> None:
    if mixture.datasets and script.dataset_name:
        raise ValueError(
            f"--dataset_name {script.dataset_name} and datasets were both given; keep one of them."
        )
    if not mixture.datasets and not script.dataset_name:
        raise ValueError(
            "No data set was named. Give --dataset_name a name on the Hub, a folder or a file "
            f"({', '.join(FORMATS)}), or list datasets in the --config file."
        )
    if not mixture.datasets and (mixture.streaming or mixture.test_split_size is not None):
        raise ValueError(
            "streaming and test_split_size belong to a mixture of datasets, and none is listed. "
            "With --dataset_name use --dataset_streaming and --dataset_test_split."
        )


def _source(script: ScriptArguments) -> tuple[str, dict]:
    """The path and the options for `load_dataset`."""
    path = Path(script.dataset_name)
    builder = FORMATS.get(path.suffix)
    # A text option can be unset on the command line by a word only.
    config = None if script.dataset_config == "none" else script.dataset_config
    if builder is None:
        return script.dataset_name, {"name": config}
    if not path.is_file():
        raise ValueError(f"--dataset_name {path}: there is no such file.")
    if config is not None:
        raise ValueError(
            f"--dataset_config {config}: the file {path} has no configurations. Leave the option "
            "out, or say none if it comes from the --config file."
        )
    return builder, {"data_files": str(path)}
