"""What the scripts of this folder share: a network opened from its own file, and where results go."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from formats import Model, Source, open_model
from wiper_cli.audit.environment import environment

RESULTS = Path(__file__).resolve().parent / "results"


def write_result(name: str, result: dict[str, Any], folder: Path = RESULTS) -> None:
    """``result`` and the environment → ``FOLDER/NAME.json`` and one line on stdout."""
    folder.mkdir(exist_ok=True)
    whole = {"benchmark": name, **result, "environment": environment()}
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps({"benchmark": name, **result}))


def opened(network: nn.Module) -> Model:
    """``network`` as a safetensors file, opened again by its names and shapes."""
    from safetensors.torch import save

    return open_model(Source("model.safetensors", save(network.state_dict())))
