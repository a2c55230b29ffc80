"""Weights of another run, by names of landmarks and channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autolmk.errors import AutolmkError
from autolmk.fold import checkpoint
from autolmk.plans import Architecture, Augmentation, Configuration, Normalization, Plans, Schedule, Windows
from autolmk.trainers.heatmap import HeatmapTrainer
from autolmk.training.pretrained import Taken, load_pretrained


def trainer(
    landmarks: tuple[str, ...], channels: tuple[str, ...] = ("CT",), features: tuple[int, ...] = (4, 8)
) -> HeatmapTrainer:
    architecture = Architecture(features, ((3, 3), (3, 3)), ((1, 1), (2, 2)), (1, 1), (1,), (1, 1))
    configuration = Configuration(
        trainer="heatmap",
        data_identifier="x",
        spacing=(1.0, 1.0),
        patch_size=(16, 16),
        batch_size=1,
        normalization=(Normalization("none"),) * len(channels),
        windows=Windows("whole"),
        architecture=architecture,
        sigma=(1.0, 1.0),
        augmentation=Augmentation((0.0,), (1.0, 1.0), (0.0, 0.0)),
        schedule=Schedule(1, 1, None, 0.1, 0.0, 0.9, 0.1),
    )
    plans = Plans(
        "D", "p", "heatmap", "XS", 2, "mm", channels, landmarks, (), (), "cpu", 1.0, {"heatmap": configuration}
    )
    return HeatmapTrainer(plans, configuration)


def built(of: HeatmapTrainer, seed: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(seed)
    network, codec = of.build_network(), of.build_codec()
    with torch.no_grad():
        codec.elsewhere.uniform_(-1, 1)
    return network, codec


def source(of: HeatmapTrainer, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    network, codec = built(of, 0)
    tensors = {**checkpoint.module_tensors(network, "network"), **checkpoint.module_tensors(codec, "codec")}
    file = folder / "source.safetensors"
    checkpoint.save(file, tensors, {"landmarks": of.plans.landmarks, "channels": of.plans.channel_names})
    return file, checkpoint.load(file).tensors


def after(of: HeatmapTrainer, file: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Taken]:
    network, codec = built(of, 1)
    everything = {**checkpoint.module_tensors(network, "network"), **checkpoint.module_tensors(codec, "codec")}
    fresh = {name: tensor.clone() for name, tensor in everything.items()}
    taken = load_pretrained(file, of, network, codec)
    return fresh, everything, taken


def head(tensors: dict[str, torch.Tensor], n: int) -> str:
    (name,) = (k for k, t in tensors.items() if k.startswith("network") and t.ndim == 4 and t.shape[0] == n)
    return name


def test_the_same_landmarks_are_taken_whole(tmp_path: Path) -> None:
    file, given = source(trainer(("a", "b", "c")), tmp_path)
    _, found, taken = after(trainer(("a", "b", "c")), file)
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())
    assert not taken.by_name and not taken.new and not taken.unused and taken.share == 1.0


def test_landmarks_go_by_name_not_by_place(tmp_path: Path) -> None:
    """c, new, a against a, b, c: of equal number, but of other names in another order."""
    file, given = source(trainer(("a", "b", "c")), tmp_path)
    fresh, found, taken = after(trainer(("c", "new", "a")), file)
    name = head(given, 3)
    assert torch.equal(found[name][0], given[name][2]) and torch.equal(found[name][2], given[name][0])
    assert torch.equal(found[name][1], fresh[name][1])
    elsewhere = "codec.elsewhere"
    assert torch.equal(found[elsewhere][[0, 2]], given[elsewhere][[2, 0]])
    assert found[elsewhere][1] == fresh[elsewhere][1]
    others = set(given) - set(taken.by_name)
    assert others and all(torch.equal(found[n], given[n]) for n in others)
    assert taken.landmarks == ("c", "a") and taken.new_landmarks == ("new",)
    assert "landmarks taken: c, a; new landmarks: new" in taken.sentence()


def test_a_hidden_layer_as_wide_as_the_landmarks_is_no_head(tmp_path: Path) -> None:
    file, given = source(trainer(("a", "b", "c", "d")), tmp_path)  # 4 features in the first stage, too
    _, found, taken = after(trainer(("d", "c", "b", "a")), file)
    assert set(taken.by_name) == {n for n in given if n.startswith(("network.head", "codec"))}
    for name in set(given) - set(taken.by_name):
        assert torch.equal(found[name], given[name]), name
    assert torch.equal(found["codec.elsewhere"], given["codec.elsewhere"].flip(0))


def test_more_landmarks_and_channels(tmp_path: Path) -> None:
    file, given = source(trainer(("a", "b")), tmp_path)
    _, found, taken = after(trainer(("a", "b", "c"), ("MR", "CT")), file)
    (first,) = (n for n, t in found.items() if t.ndim == 4 and t.shape[1] == 2 and n in taken.by_name)
    assert torch.equal(found[first][:, 1], given[first][:, 0])
    assert torch.allclose(found[first][:, 0], given[first].mean(1))
    assert taken.new_channels == ("MR",) and taken.new_landmarks == ("c",)
    assert not taken.new


@pytest.mark.parametrize("channels", [("X-ray",), ("R", "G", "B")])
def test_another_dataset_gives_all_but_what_tells_landmarks_apart(channels: tuple[str, ...], tmp_path: Path) -> None:
    """Other landmarks of another number, and other channels: the input layer is adapted, outputs start fresh."""
    file, given = source(trainer(("a", "b")), tmp_path)
    fresh, found, taken = after(trainer(("x", "y", "z"), channels), file)
    own = {n for n in found if n.startswith(("network.head", "codec"))}
    assert set(taken.new) == own and all(torch.equal(found[n], fresh[n]) for n in own)
    (first,) = (n for n, t in found.items() if t.ndim == 4 and t.shape[1] == len(channels) and n in taken.by_name)
    assert all(torch.equal(found[first][:, i], given[first][:, 0]) for i in range(len(channels)))
    assert all(torch.equal(found[n], given[n]) for n in set(found) - own - {first})
    own_weights, weights = (sum(found[n].numel() for n in names) for names in (own, found))
    assert taken.share == pytest.approx(1 - own_weights / weights)
    assert f"{100 * taken.share:.0f} % of this network" in taken.sentence()
    assert "no landmark of the same name" in taken.sentence() and f"names: {', '.join(channels)}" in taken.sentence()


def test_weights_of_volumes_do_not_fit_images(tmp_path: Path) -> None:
    """Though biases would."""
    file = tmp_path / "x.safetensors"
    of = trainer(("a",))
    tensors = checkpoint.module_tensors(built(of, 0)[0], "network")
    tensors = {name: tensor.unsqueeze(-1) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    checkpoint.save(file, tensors, {"landmarks": ["a"], "channels": ["CT"]})
    with pytest.raises(AutolmkError, match=r"(?s)nothing of the pretrained.*\(4, 8, 3, 3, 1\).*as many axes"):
        load_pretrained(file, of, *built(of, 1))


def test_another_width_takes_nothing_of_those_tensors(tmp_path: Path) -> None:
    file, given = source(trainer(("a", "b")), tmp_path)
    fresh, found, taken = after(trainer(("a", "b"), features=(4, 16)), file)
    assert taken.new and taken.whole
    for name in taken.new:
        assert torch.equal(found[name], fresh[name])
    assert set(taken.unused) <= set(given)


def test_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    checkpoint.save(file, {"network.alien": torch.zeros(2)}, {"landmarks": ["a"], "channels": ["CT"]})
    of = trainer(("a", "b"))
    with pytest.raises(AutolmkError, match=r"(?s)nothing of the pretrained weights fits.*network.alien"):
        load_pretrained(file, of, *built(of, 1))
