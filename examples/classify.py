# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Classify images by Bayes' rule, with the likelihoods of a class-conditional model.

    accelerate launch examples/train.py --num_class_embeds 10 --output_dir runs/digits_by_class
    python examples/classify.py --model_name_or_path runs/digits_by_class --output_dir digits_classified

p(class | x) ∝ p(class) p(x | class), each p(x | class) by its variational bound, with the same noise for every class
(Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier"); with --num_paths by the tighter bound of
weighted paths. Leaves classification.json: the accuracy, next to that of a support vector classifier, which classes
are taken for which, and each image's probabilities.
"""

from ddpm_hf.cli.classify import main


if __name__ == "__main__":
    main()
