"""Pretrained weights: everything that loads is counted, everything that does not fit is refused."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from fusion.encoders import build_encoder
from fusion.errors import FusionError
from fusion.weights import load_encoder_weights, read_state


@pytest.fixture(params=["mobilenetv4_conv_small", "resnet18", "convnext_atto"])
def arch(request):
    return request.param


def whole(arch, classes=7):
    torch.manual_seed(1)
    return timm.create_model(arch, pretrained=False, num_classes=classes)


def features_of(model, picture):
    with torch.no_grad():
        return model.eval()(picture)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "wrapped", "prefixed"])
def test_a_whole_classifiers_file_fills_the_encoder(arch, kind, tmp_path):
    state = whole(arch).state_dict()
    path = tmp_path / f"w.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        changed = {f"module.{k}": v for k, v in state.items()} if kind == "prefixed" else state
        torch.save({"state_dict": changed, "epoch": 3} if kind == "wrapped" else changed, path)
    encoder = build_encoder(arch, 3)
    report = load_encoder_weights(encoder, arch, str(path))
    assert report.loaded == len(encoder.net.state_dict())
    assert report.adapted == ()
    assert any("fc" in name or "classifier" in name or "head" in name for name in report.skipped)
    reference = timm.create_model(
        arch, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3) if "next" in arch else (1, 2, 3, 4)
    )
    reference.load_state_dict(encoder.net.state_dict())
    picture = torch.randn(1, 3, 64, 64)
    for a, b in zip(features_of(encoder, picture), features_of(reference, picture), strict=True):
        assert torch.equal(a, b)
    deepest = whole(arch).eval()
    deepest.load_state_dict(state)
    with torch.no_grad():
        assert not torch.equal(features_of(build_encoder(arch, 3), picture)[-1], features_of(encoder, picture)[-1])


def test_the_first_layer_is_summed_for_one_channel(arch, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(whole(arch).state_dict(), path)
    grey = torch.randn(1, 1, 64, 64)
    one, three = build_encoder(arch, 1), build_encoder(arch, 3)
    report = load_encoder_weights(one, arch, str(path))
    load_encoder_weights(three, arch, str(path))
    assert len(report.adapted) == 1
    for a, b in zip(features_of(one, grey), features_of(three, grey.expand(-1, 3, -1, -1)), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_weights_of_another_architecture_are_refused_and_nothing_is_said_to_be_loaded(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(whole("resnet18").state_dict(), path)
    with pytest.raises(FusionError, match=r"does not fit the encoder: .* have no value"):
        load_encoder_weights(build_encoder("mobilenetv4_conv_small", 3), "mobilenetv4_conv_small", str(path))


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    state = whole("resnet18").state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(3, 3, 3, 3)
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    with pytest.raises(FusionError, match=r"layer1\.0\.conv1\.weight.*\(3, 3, 3, 3\).*\(64, 64, 3, 3\)"):
        load_encoder_weights(build_encoder("resnet18", 3), "resnet18", str(path))


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_damaged_file_is_one_clear_line(content, suffix, tmp_path):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(FusionError, match="not a readable state dict") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


def test_a_pickled_module_is_never_loaded(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(FusionError, match="not a readable state dict"):
        read_state(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FusionError, match="no such weights file"):
        read_state(tmp_path / "none.pth")


def test_timms_weights_that_cannot_be_fetched_are_an_error_not_random_weights(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    from fusion.weights import _timm_state

    with pytest.raises(FusionError, match=r"could not be fetched.*weights: null"):
        _timm_state("resnet18")


def test_the_first_layer_of_an_early_fusion_keeps_rgb_and_adds_their_mean(arch, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(whole(arch).state_dict(), path)
    picture = torch.randn(1, 3, 64, 64)
    four, three = build_encoder(arch, 4), build_encoder(arch, 3)
    report = load_encoder_weights(four, arch, str(path))
    load_encoder_weights(three, arch, str(path))
    assert len(report.adapted) == 1 and report.loaded == len(four.net.state_dict()) - 1
    wide, own = (e.net.state_dict()[report.adapted[0]] for e in (four, three))
    assert torch.equal(wide[:, :3], own) and torch.allclose(wide[:, 3], own.mean(1))
    without_thermal = torch.cat([picture, torch.zeros(1, 1, 64, 64)], 1)
    for a, b in zip(features_of(four, without_thermal), features_of(three, picture), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
