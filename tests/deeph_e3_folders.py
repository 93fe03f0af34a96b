"""Model folders as the training of DeepH-E3 leaves them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.oracles import deeph_e3_blocks as oracle_blocks

# What a user changes, and two of the lines of the default settings in the copy of the code.
INI = """; my settings
[basic]
device = cuda:0   ; or cpu
save_dir = /data/100%/models
[target]
target_blocks_type = all
[network]
cutoff_radius = {r_max}   ; in Angstrom
"""
DEFAULTS = "[network]\ncutoff_radius = 7.2\nspherical_basis_irreps = \nignore_parity = False\n"
# Code of such a folder leaves a trace if anything runs it.
CODE = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n"


def write_folder(
    path: Path, weights: Mapping[str, torch.Tensor], info: Mapping[str, Any], r_max: float = 7.2
) -> Path:
    """A folder with weights by their released names; ``info`` as in dataset_info.json."""
    settings = path / "src" / "deephe3_1" / "default_configs"
    settings.mkdir(parents=True)
    schedule = {"next_epoch": 8, "best_loss": 0.1, "slipslop_state_dict": {"last_decayed": None}}
    optimizer = {"state": {0: {"step": 5, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]}
    content = {"epoch": 7, "val_loss": 0.1, "state_dict": dict(weights), "optimizer_state_dict": optimizer}
    for name in ("best_model.pkl", "model.pkl"):
        torch.save(content | {"scheduler_state_dict": schedule}, path / name)
    src = path / "src"
    shells = {key: info[key] for key in ("spinful", "index_to_Z", "orbital_types")}
    (src / "dataset_info.json").write_text(json.dumps(shells))
    targets = oracle_blocks.targets_of(info["index_to_Z"], info["orbital_types"])
    (src / "target_blocks.json").write_text(json.dumps(targets))
    (src / "train.ini").write_text(INI.format(r_max=r_max))
    (settings / "train_default.ini").write_text(DEFAULTS)
    for file in (src / "build_model.py", src / "train.py", src / "deephe3_1" / "__init__.py"):
        file.write_text(CODE)
    return path
