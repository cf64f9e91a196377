"""Evaluate a model on math benchmarks: the command line of `trl_lambda.scripts.evaluate`.

    python recipes/evaluate.py --model Qwen/Qwen2.5-Math-1.5B --benchmarks math500 aime24 \\
        --output_dir runs/qwen
    python recipes/evaluate.py --help
"""

from trl_lambda.scripts.evaluate import main

if __name__ == "__main__":
    main()
