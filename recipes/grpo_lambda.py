"""Train a language model with LambdaGRPOTrainer: the command line of `trl_lambda.scripts.train`.

    accelerate launch recipes/grpo_lambda.py --config recipes/configs/ours_qwen2.5_0.5b.yaml \\
        --output_dir out
    python recipes/grpo_lambda.py --help
"""

from trl_lambda.scripts.train import main

if __name__ == "__main__":
    main()
