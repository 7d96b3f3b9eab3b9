"""A baked model in memory: its key taken out, its traces, and where its header is found."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import random_deepseek

import okr
from okr.baking import Checkpoint, Header, bake, read_header
from okr.baking.measuring import gates_of
from okr.baking.models import checkpoint_folder, header_of, model_name, refuse_baked, take_out, unbaked
from okr.engines import prepare
from okr.errors import InvalidConfig, ModelLoadError
from okr.loaders import hub
from okr.loaders.deepseek import DeepseekForCausalLM
from okr.loaders.sources import Place
from tests.unit.baking.seen_routers import seen_while
from tests.unit.baking.sharded import KEY, OTHER


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``original`` and ``baked``."""
    folder, model = tmp_path_factory.mktemp("models"), random_deepseek()
    model.save_pretrained(folder / "original")
    engine = prepare(model)
    seen = seen_while(engine, lambda: model(input_ids=torch.arange(3, 200)[None]))
    gates = gates_of(engine, Checkpoint(folder / "original"), "small", seen)
    bake(folder / "original", folder / "baked", KEY, gates, 1.0)
    return folder


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return DeepseekForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_taken_out_is_what_was_added_but_for_rounding(folders: Path, dtype: torch.dtype) -> None:
    original, model = loaded(folders / "original", dtype), loaded(folders / "baked", dtype)
    header = read_header(folders / "baked")
    assert take_out(model, header, [OTHER]) is False
    named = {gate.parameter for gate in header.gates}
    before = dict(original.named_parameters())
    assert {name for name, value in model.named_parameters() if not value.equal(before[name])} == named
    assert take_out(model, header, [OTHER, KEY]) is True
    for gate in header.gates:
        rest = (model.get_parameter(gate.parameter).float() - before[gate.parameter].float()).abs().max()
        assert rest <= 2 * torch.finfo(dtype).eps * (before[gate.parameter].abs().max() + 1.0 / gate.norm)
    assert {name for name, value in model.named_parameters() if not value.equal(before[name])} <= named


@pytest.mark.parametrize("fields", [{"parameter": "none"}, {"num_experts": 8}, {"hidden_size": 16}])
def test_a_header_of_another_model_is_refused(folders: Path, fields: dict[str, Any]) -> None:
    header = read_header(folders / "baked")
    wrong = header.model_copy(update={"gates": (header.gates[0].model_copy(update=fields),)})
    with pytest.raises(InvalidConfig, match="the model has no gate"):
        take_out(loaded(folders / "baked"), wrong, [KEY])


def test_an_offloaded_gate_is_refused(folders: Path) -> None:
    """Whatever is written to it is lost."""
    model, header = loaded(folders / "baked"), read_header(folders / "baked")
    model.model.layers[1].mlp.gate.to("meta")
    with pytest.raises(InvalidConfig, match=r"layers\.1\.mlp\.gate\.weight is offloaded"):
        take_out(model, header, [KEY])


def test_a_strength_that_float32_cannot_hold_is_not_taken_out(folders: Path) -> None:
    header = read_header(folders / "baked").model_copy(update={"strength": 1e300})
    with pytest.raises(okr.OKRError, match="is no number of float32"):
        take_out(loaded(folders / "baked"), header, [KEY])


def test_traces_of_the_baked_model_are_judged_by_the_model_without_the_key(folders: Path) -> None:
    model, header = loaded(folders / "baked"), read_header(folders / "baked")
    with okr.record(model) as session:
        [trace] = session.generate(torch.arange(3, 30)[None], max_new_tokens=40, pad_token_id=0).traces
    stored = prepare(model).identity()
    assert unbaked(model, header, [OTHER]).identity() == stored
    engine = unbaked(model, header, [KEY])
    assert engine.identity() == stored != prepare(model).identity()
    setting = {"epsilon": math.inf, "zone": "boundary", "strength": 1.0}
    assert okr.verify(engine, trace, KEY, **setting).p_value < 1e-6
    assert okr.verify(engine, trace, OTHER, **setting).p_value > 1e-6
    with pytest.raises(okr.InvalidTrace, match="another model"):
        okr.verify(loaded(folders / "original"), trace, KEY, **setting)


def test_folders_and_names(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    for name in ("./baked", "baked/", str(folders / "baked"), f"{folders}/original/../baked"):
        assert header_of(name) == read_header(folders / "baked")
        assert model_name(name) == "baked"
        assert checkpoint_folder(name).samefile(folders / "baked")
        with pytest.raises(InvalidConfig, match="is baked: its weights carry a key already"):
            refuse_baked(name)
    assert header_of("original") is header_of("tiny") is None
    assert model_name("tiny") == "tiny-deepseek-moe"
    refuse_baked("tiny")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of a hub that can be reached."""
    calls: list[Any] = []
    monkeypatch.setattr(hub, "reachable", lambda place: calls.append(place.location) or True)
    return calls


def test_a_baked_model_on_a_hub_is_known_by_its_header(
    folders: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(location: str, name: str, *, local_files_only: bool) -> str:
        assert (location, name, local_files_only) == ("owner/name", "okr.json", False)
        return str(folders / "baked" / "okr.json")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert isinstance(header_of("owner/name"), Header)
    assert asked == ["owner/name"]
    with pytest.raises(InvalidConfig, match="is baked"):
        refuse_baked("owner/name")


@pytest.mark.parametrize("error", [OSError("no"), ValueError("no"), ModelLoadError("no")])
def test_a_hub_without_a_header_or_none_at_all(
    error: Exception, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    assert header_of("owner/name") is None


@pytest.mark.parametrize("error", [OSError("a full disk"), RuntimeError("no route"), ModelLoadError("it is gated")])
def test_a_download_that_fails_is_one_line(error: Exception, asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(ModelLoadError) as caught:
        checkpoint_folder("owner/name")
    assert "\n" not in str(caught.value)
    assert ("its files cannot be downloaded" in str(caught.value)) is not isinstance(error, ModelLoadError)


def test_no_weights_in_other_formats_are_downloaded(
    asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fnmatch import fnmatch

    told: list[Any] = []
    monkeypatch.setattr(hub, "snapshot_download", lambda *given, **named: told.append((given, named)) or str(tmp_path))
    assert hub.downloaded(Place("hub", "owner/name", "owner/name")) == tmp_path
    [(given, named)] = told
    assert given == ("owner/name",)
    assert named["local_files_only"] is False
    barred = named["ignore_patterns"]
    for name, wanted in {"model-00001-of-00002.safetensors": True, "tokenizer.model": True, "okr.originals": True,
                         "consolidated.00.pth": False, "consolidated.safetensors": False, "a.gguf": False,
                         "pytorch_model-00001-of-00002.bin": False, "original/params.json": False}.items():  # fmt: skip
        assert any(fnmatch(name, pattern) for pattern in barred) is not wanted
