"""The manifest: round trip, signatures, and every way a bundle can be broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.bundle import (
    BundleError,
    graph_names,
    graph_signature,
    load_manifest,
    pattern_key,
    presence_patterns,
    save_manifest,
)


def test_manifest_survives_a_round_trip_with_its_hash(bundle, tmp_path):
    manifest = load_manifest(bundle)
    save_manifest(tmp_path, manifest)
    again = load_manifest(bundle)
    assert again == manifest
    assert again.hash == manifest.hash
    assert len(manifest.hash) == 16


def test_hash_changes_with_any_file(bundle):
    manifest = load_manifest(bundle)
    other = manifest.model_copy(update={"files": {**manifest.files, "fuse.onnx": "0" * 64}})
    assert other.hash != manifest.hash


def test_signatures_cover_every_graph(bundle):
    manifest = load_manifest(bundle)
    assert len(graph_names(manifest)) == 13
    fuse = graph_signature(manifest, "fuse")
    assert list(fuse.inputs) == [*(f"evidence_{n}" for n in manifest.modality_names), "presence"]
    assert fuse.outputs["logits"] == (4,)
    assert fuse.outputs["latent_audio"] == (7,)
    assert graph_signature(manifest, "encode_eeg").inputs == {"window": (768, 8)}
    assert graph_signature(manifest, "observe_audio").outputs == {"observation": (40, 101)}
    with pytest.raises(KeyError, match="lidar"):
        graph_signature(manifest, "encode_lidar")
    with pytest.raises(KeyError, match="render_rgb"):
        graph_signature(manifest, "render_rgb")


def test_patterns_are_complete_first_and_named_in_order():
    patterns = list(presence_patterns(3, empty=True))
    assert patterns[0] == (1, 1, 1)
    assert patterns[-1] == (0, 0, 0)
    assert len(patterns) == 8
    assert pattern_key(("a", "b", "c"), (1, 0, 1)) == "a+c"
    assert pattern_key(("a", "b", "c"), (0, 0, 0)) == "none"


@pytest.mark.parametrize("name", ["fuse.onnx", "encode_rgb.onnx", "golden.npz"])
def test_truncated_file_is_refused_by_its_hash(bundle, name):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=rf"{name}: sha256 .* differs"):
        load_manifest(bundle)


def test_one_flipped_bit_is_refused(bundle):
    content = bytearray((bundle / "decode_rgb.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "decode_rgb.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"decode_rgb\.onnx"):
        load_manifest(bundle)
    assert load_manifest(bundle, verify=False)


def test_missing_graph_is_named(bundle):
    (bundle / "encode_audio.onnx").unlink()
    with pytest.raises(BundleError, match=r"encode_audio\.onnx is named in the manifest but is not there"):
        load_manifest(bundle)


def test_graph_left_out_of_the_manifest_is_named(bundle, edit_json):
    edit_json(bundle / "manifest.json", lambda raw: raw["files"].pop("observe_eeg.onnx"))
    with pytest.raises(BundleError, match=r"files lacks observe_eeg\.onnx"):
        load_manifest(bundle)


def test_file_outside_the_bundle_is_refused(bundle, edit_json):
    (bundle.parent / "secret").write_text("x")
    edit_json(bundle / "manifest.json", lambda raw: raw["files"].update({"../secret": "0" * 64}))
    with pytest.raises(BundleError, match="secret"):
        load_manifest(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(schema_version=2), "schema version 2, this build reads 1"),
        (lambda raw: raw.pop("schema_version"), "schema version None"),
        (lambda raw: raw.update(schema_version="1"), "schema version '1'"),
        (lambda raw: raw.update(clases=["a", "b"]), "clases"),
        (lambda raw: raw.pop("classes"), "classes"),
        (lambda raw: raw["modalities"][0].update(dtype="float64"), r"modalities.0.dtype.*float64"),
        (lambda raw: raw["modalities"][0].update(window=0), r"modalities.0.window"),
        (lambda raw: raw["modalities"][1].update(name="rgb"), "unique"),
        (lambda raw: raw["calibration"]["temperature"].pop("rgb+eeg"), r"lacks patterns \['rgb\+eeg'\]"),
        (lambda raw: raw["calibration"]["temperature"].update(rgb=0), "> 0"),
        (lambda raw: raw["calibration"]["temperature"].update(rgb=float("nan")), "> 0"),
        (lambda raw: raw["calibration"]["temperature"].update(rgb=float("inf")), "> 0"),
    ],
)
def test_invalid_manifest_names_the_field(bundle, edit_json, change, message):
    edit_json(bundle / "manifest.json", change)
    with pytest.raises(BundleError, match=message):
        load_manifest(bundle)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"null", b"[]", b"3"], ids=lambda c: repr(c[:4])
)
def test_manifest_that_is_no_manifest_is_refused(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_manifest(bundle)


def test_folder_without_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(BundleError, match="afterimage train"):
        load_manifest(tmp_path)
    with pytest.raises(BundleError, match="not a bundle"):
        load_manifest(tmp_path / "nowhere")


def test_manifest_is_readable_json(tiny_bundle: Path):
    raw = json.loads((tiny_bundle / "manifest.json").read_text())
    assert raw["schema_version"] == 1
    assert set(raw["files"]) == {p.name for p in tiny_bundle.iterdir()} - {"manifest.json"}
