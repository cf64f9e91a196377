"""Run by `accelerate launch`: a short training with the evaluation callback.

evaluate_while_training.py OUTPUT_DIR
"""

import sys

import tiny
from accelerate import PartialState
from scripted_generator import sums

from trl_lambda.evaluation import EvaluationCallback, Sampling


def run(folder: str) -> None:
    trainer = tiny.trainer(
        folder, settings={"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 0.0}
    )
    callback = EvaluationCallback(
        trainer,
        sums(5),
        every=2,
        k=3,
        sampling=Sampling(temperature=1.0, max_tokens=6, template="none"),
        batch_size=4,
        keep_best="avg@3",
    )
    trainer.add_callback(callback)
    trainer.train()


if __name__ == "__main__":
    run(sys.argv[1])
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()  # leaving with its threads alive can end in an abort
