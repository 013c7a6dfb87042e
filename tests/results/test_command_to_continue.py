"""A stopped run that was moved or renamed says which command continues it where it lies."""

import shlex

import pytest
import yaml
from tiny import tiny_train

from pipeline.config import load_config
from pipeline.results.runs import command_to_continue
from pipeline.training.config import TrainConfig

CHANGES = ["nothing", "another name", "a name with a blank", "another folder of runs", "both", "a name of its own"]


@pytest.mark.parametrize("change", CHANGES)
def test_the_command_trains_in_the_folder_as_it_is_called_now(cache, tmp_path, change):
    config = tiny_train(tmp_path, cache)
    own, other = config.folder, config.folder.name.replace("tiny", "old")
    folder = {
        "nothing": own,
        "another name": own.parent / other,
        "a name with a blank": own.parent / own.name.replace("tiny", "old one"),
        "another folder of runs": tmp_path / "kept" / own.name,
        "both": tmp_path / "kept" / other,
        "a name of its own": tmp_path / "kept" / "best",
    }[change]
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    *moves, command = command_to_continue(folder).split(" && ")
    for move in moves:
        _, source, target = shlex.split(move)
        folder = folder.rename(target)
        assert source.endswith(("best", own.name.replace("tiny", "old one")))
    verb, file, *sets = shlex.split(command)[1:]
    assert verb == "train"
    assert load_config(TrainConfig, file, sets[1::2]).folder == folder
