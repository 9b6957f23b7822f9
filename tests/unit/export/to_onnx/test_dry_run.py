"""The path of `make a14b-dry-run` on a small network of the same architecture; the real one takes minutes."""

import contextlib
import json
from pathlib import Path

import pytest

from export.__main__ import main
from export.atomic import OccupiedFolderError
from export.checkpoint.architecture import A14B, Architecture
from export.checkpoint.component_configs import read_architecture
from export.checkpoint.folder import Checkpoint, CheckpointKind
from export.checkpoint.meta_module import shell_of
from export.checkpoint.weights.safetensors_index import stored_tensors
from export.graphs.precision import FOR_LARGE_WEIGHTS, Precisions
from export.graphs.registry import GRAPHS
from export.manifest import onnx_file
from export.process_cost import process_cost
from export.to_onnx.a14b_dummy import A14B_CONFIGS, A14B_PARAMETERS, write_dummy
from export.to_onnx.check import GraphError, Structure
from export.to_onnx.dry_run import dry_run
from export.to_onnx.export_checkpoint import export_checkpoint
from export.to_onnx.export_in_place import InPlaceGraph
from export.to_onnx.external_data import ExternalData
from export.to_onnx.graph_export import ExportSettings
from tests.fakes.small_configs import small_configs
from wan_t2v.facts import DEFAULTS_FILE, FACTS_FILE, TOKENIZER_FILE
from wan_t2v.installed_files import FilesManifest, check_installed
from wan_t2v.manifests import GraphManifest, read_manifest

TWO = {graph: GRAPHS[graph] for graph in ("low_noise_expert", "text_encoder")}
PRECISIONS = Precisions(experts="bf16", text_encoder="fp32")  # one that ONNX Runtime could compare, and one that not
KEYS = {"graph", "seconds", "peak_mb", "nodes", "parameters"}


def parameters(architecture: Architecture) -> dict[str, int]:
    """From the arithmetic of the architecture, which knows nothing of torch modules."""
    return {
        "text_encoder": architecture.text_encoder.parameters,
        "high_noise_expert": architecture.expert.parameters,
        "low_noise_expert": architecture.expert.parameters,
        "vae_decoder_first": architecture.vae.decoder_parameters,
        "vae_decoder_next": architecture.vae.decoder_parameters,
    }


def test_the_expected_counts_of_a14b_follow_from_its_architecture() -> None:
    assert parameters(A14B) == A14B_PARAMETERS


def test_the_current_folder_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/notes.txt").touch()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["dry-run", "--out", "."]) == 1
    told = capsys.readouterr().err
    assert "would be replaced and holds what this command did not write (notes.txt)" in told and told.count("\n") == 1


@pytest.fixture(scope="module")
def a14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dummy(tmp_path_factory.mktemp("a14b") / "dummy")


def test_the_dummy_has_the_size_of_a14b_and_takes_no_disk(a14b: Path) -> None:
    files = [path for path in a14b.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) == pytest.approx(126.18e9, rel=1e-3)
    assert sum(path.stat().st_blocks * 512 for path in files) < 2_000_000
    assert len(list((a14b / "transformer").glob("*.safetensors"))) == 12
    assert Checkpoint.open(a14b).kind is CheckpointKind.LARGE


def test_the_dummy_is_a_checkpoint_of_a14b(a14b: Path) -> None:
    checkpoint = Checkpoint.open(a14b)
    checkpoint.check()
    assert checkpoint.hash_of("transformer").sampled, "one field for its hash, whatever was hashed"
    facts = checkpoint.facts
    assert (facts.text_length, facts.text_dim, facts.boundary_timestep) == (512, 4096, 875.0)
    assert read_architecture(a14b) == A14B
    for name, config in A14B_CONFIGS.items():
        assert json.loads((a14b / name).read_text()) == config
    for component in ("transformer_2", "vae"):
        shapes = {name: tuple(t.shape) for name, t in shell_of(a14b, component).state_dict().items()}
        assert {name: t.shape for name, t in stored_tensors(a14b, component).items()} == shapes


@pytest.fixture(scope="module")
def rows_and_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, object]], Path]:
    folder = tmp_path_factory.mktemp("dry-run") / "dummy"
    write_dummy(folder, small_configs())
    expected = parameters(read_architecture(folder))
    rows: list[dict[str, object]] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("export.to_onnx.export_checkpoint.GRAPHS", TWO)
        dry_run(
            folder,
            PRECISIONS,
            configs=small_configs(),
            parameters=expected,
            shard_bytes=300_000,
            jobs=2,
            report=rows.append,
        )
    return rows, folder


def test_every_graph_is_reported_with_its_cost(rows_and_folder: tuple[list[dict[str, object]], Path]) -> None:
    rows, _ = rows_and_folder
    assert {row["graph"] for row in rows} == TWO.keys() and len(rows) == len(TWO)
    for row in rows:
        assert row.keys() > KEYS and all(row[key] for key in KEYS)
        assert row["casts_of_weights"], "both graphs have another type than the shards"


def test_the_manifests_say_precision_and_where_the_graph_stands(
    rows_and_folder: tuple[list[dict[str, object]], Path],
) -> None:
    _, folder = rows_and_folder
    manifests = folder.with_name("dummy-export")
    for graph in TWO:
        manifest = read_manifest(GraphManifest, manifests / graph / "manifest.json")
        precision = PRECISIONS.of(graph)
        path = folder / GRAPHS[graph].component / f"{graph}.{precision}.onnx"
        assert manifest.precision == precision
        assert onnx_file(manifests / graph) == path.resolve() and path.exists()
        assert "dummy without values" in str(manifest.parity.not_compared) or precision == "bf16"
        assert manifest.weights and manifest.weights["files"]
        assert FilesManifest.read(manifests).graphs[graph] == {"checkpoint_sha256": manifest.checkpoint_sha256}
    assert check_installed(manifests, [FACTS_FILE, DEFAULTS_FILE, TOKENIZER_FILE])
    doors = read_manifest(GraphManifest, manifests / "low_noise_expert/manifest.json").dtypes
    assert doors == {
        "hidden_states": "BFLOAT16",
        "timestep": "FLOAT",
        "encoder_hidden_states": "BFLOAT16",
        "velocity": "BFLOAT16",
    }


def test_a_second_export_finds_everything_current(
    rows_and_folder: tuple[list[dict[str, object]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = rows_and_folder
    monkeypatch.setattr("export.to_onnx.export_checkpoint.GRAPHS", TWO)
    written: list[InPlaceGraph] = []
    settings = ExportSettings(PRECISIONS, external_weights=True, dummy=True)
    export_checkpoint(Checkpoint.open(folder), folder.with_name("dummy-export"), settings, on_written=written.append)
    assert written == []


def test_a_graph_with_another_number_of_weights_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = InPlaceGraph(
        graph="text_encoder",
        path=tmp_path / "text_encoder.bf16.onnx",
        structure=Structure(nodes=1, casts=0, elements={}, onnx_mb=0.1),
        external_data=ExternalData(tensors=1, parameters=1234, casts=0, files=()),
        cost=process_cost(),
    )
    rows: list[dict[str, object]] = []
    monkeypatch.setattr("export.to_onnx.dry_run.export_checkpoint", lambda *_, on_written: on_written(found))
    for parameters in (1234, 7):
        told = pytest.raises(GraphError, match="text_encoder has 1,234 parameters, expected 7")
        with told if parameters == 7 else contextlib.nullcontext():
            dry_run(
                tmp_path / "dummy",
                FOR_LARGE_WEIGHTS,
                configs=small_configs(layers=1),
                parameters=dict.fromkeys(GRAPHS, parameters),
                report=rows.append,
            )
    assert [row["parameters"] for row in rows] == [1234]


@pytest.mark.parametrize("occupied", ["dummy", "dummy-export"])
def test_a_folder_that_no_dry_run_made_stays(occupied: str, tmp_path: Path) -> None:
    """A downloaded checkpoint, or the export of another one."""
    mine = tmp_path / occupied / "model_index.json"
    mine.parent.mkdir()
    mine.write_text("{}")
    with pytest.raises(OccupiedFolderError, match=f"{occupied} would be replaced"):
        dry_run(tmp_path / "dummy", FOR_LARGE_WEIGHTS, configs=small_configs(layers=1), report=lambda row: None)
    assert mine.read_text() == "{}" and list(tmp_path.iterdir()) == [mine.parent]


def test_the_folders_of_an_earlier_dry_run_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.to_onnx.dry_run.export_checkpoint", lambda *_, **__: None)
    for _ in range(2):
        dry_run(tmp_path / "dummy", FOR_LARGE_WEIGHTS, configs=small_configs(layers=1), report=lambda row: None)
        (tmp_path / "dummy-export/text_encoder").mkdir()
    Checkpoint.open(tmp_path / "dummy")
