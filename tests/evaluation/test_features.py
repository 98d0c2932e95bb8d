# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Fréchet distances of features of networks: their networks, their input, and the numbers of images compared."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch
from helpers.training_runs import *  # noqa: F403
from torch import Tensor, nn
