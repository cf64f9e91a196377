"""Run by `accelerate launch`: two processes push, first to a Hub that refuses."""

import sys
from pathlib import Path

import tiny
import torch
from accelerate import PartialState

from trl_lambda.hub import HubPushError

PartialState(cpu=True)


def main(folder: Path) -> None:
    settings = {"max_steps": 1, "per_device_train_batch_size": 4, "hub_model_id": "somebody/two"}
    trainer = tiny.trainer(folder / "run", settings=settings)
    trainer.train()
    outcome = "pushed"
    try:
        trainer.push_to_hub()
    except HubPushError:
        outcome = "refused"
    trainer.accelerator.wait_for_everyone()
    rank = trainer.accelerator.process_index
    saved = (folder / "run" / "model.safetensors").exists()
    (folder / f"{rank}.txt").write_text(f"{outcome} {saved}")
    trainer.accelerator.wait_for_everyone()
    trainer.push_to_hub()
    trainer.accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
