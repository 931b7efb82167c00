"""A rollout as an object to look at and to compute with. P prompts, G samples each, N nodes of their tree, C transitions."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Key, numpy_generator
from flowgrpo.data.prompts import Prompt, batches, load_prompts
from flowgrpo.data.samples import Samples
from flowgrpo.objective import AdvantageConfig
from flowgrpo.objective.credit import Credit
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.pages.page import Page
from flowgrpo.policies.diffusers._policy import DiffusersPolicy
from flowgrpo.policies.masked._policy import MaskedPolicy
from flowgrpo.runs.tree_drawing import draw_tree
from flowgrpo.sampling.plans import Plan
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.shape import Shape
from flowgrpo.training.rollout import Block, Transitions
from flowgrpo.training.rollout import rollout as roll_out
