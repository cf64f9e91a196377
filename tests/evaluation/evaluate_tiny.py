"""Evaluates the tiny model, slowly: the process that test_kill ends.

python evaluate_tiny.py MODEL_FOLDER OUTPUT_DIR SECONDS_A_BATCH
"""

import sys
import time

from scripted_generator import sums

from trl_lambda.evaluation import Sampling, TransformersGenerator, evaluate


class Slow(TransformersGenerator):
    seconds = 0.0

    def generate(self, requests, sampling):
        time.sleep(self.seconds)
        return super().generate(requests, sampling)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    made = Slow.load(sys.argv[1], batch_size=4)
    made.seconds = float(sys.argv[3])
    evaluate(
        sums(8),
        made,
        Sampling(temperature=1.0, max_tokens=20, template="none"),
        sys.argv[2],
        k=5,
        progress=False,
    )
