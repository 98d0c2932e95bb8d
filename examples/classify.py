# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Classify images by Bayes' rule, with the likelihoods of a class-conditional model.

    accelerate launch examples/train.py --num_class_embeds 10 --output_dir runs/digits_by_class
    python examples/classify.py --model_name_or_path runs/digits_by_class --output_dir digits_classified

p(class | x) ∝ p(class) p(x | class), where the variational bound estimates each p(x | class), with the same noise for
every class (Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier"). With --num_paths the tighter
importance-weighted bound is used. The script writes classification.json, with the accuracy, the accuracy of a support
vector classifier for comparison, the confusion matrix, and the probabilities of each image.
"""

from ddpm_hf.cli.classify import main


if __name__ == "__main__":
    main()
