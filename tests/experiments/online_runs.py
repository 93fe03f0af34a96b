"""Two W&B runs, one after the other, in the run directory that the arguments name, of three steps each."""

import sys

from experiments.settings.configuration import composed, plain
from experiments.training.provenance import provenance
from experiments.training.wandb_run import start_wandb

config = composed("train", ["experiment=demo", *sys.argv[1:]])
for first in (0, 3):
    run = start_wandb(config, "online", {"config": plain(config), "provenance": provenance()})
    for step in range(first, first + 3):
        run.log({"train/loss": 1.0, "trainer/global_step": step})
