"""Discovery finds the routers of every MoE family of transformers, no others, by structure as by a trace."""

import re
from pathlib import Path

import pytest
import torch
import transformers

from okr.discovery import discover, prove, search, table
from okr.discovery.sites import pattern
from tests.unit.discovery.families_document import DOCUMENT, document
from tests.unit.discovery.routers_of_transformers import NOT_KEYABLE, sites_of
from tests.unit.discovery.zoo import FAMILIES, OLDER, build, config_of, make, model_class

INSTALLED = [name for name, family in FAMILIES.items() if family.installed]
# Classes that bear the name of experts or routers without routing tokens to experts.
NO_MOE = {"granite_docling"}  # its router picks an image path per sample


def test_the_zoo_holds_every_moe_family_that_is_installed():
    sounds = re.compile(r"^class \w*(Router|Gating|Gate|CDMoE|Experts|NaiveMoe)\(nn\.", re.MULTILINE)
    models = Path(transformers.__file__).parent / "models"
    routed = {
        path.parent.name
        for path in models.glob("*/modeling_*.py")
        if "xperts" in (text := path.read_text(encoding="utf-8")) and sounds.search(text)
    }
    known = {name.partition(":")[0] for name in FAMILIES}
    assert routed - known - NO_MOE == set()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_router_is_found_and_nothing_else(name):
    found = discover(build(name))
    assert {(pattern(site.path), site.router_class) for site in found} == sites_of(name)
    assert {site.router_class for site in found if not site.keyable} == NOT_KEYABLE & {s.router_class for s in found}
    assert all(bool(site.reason) != site.keyable for site in found)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_traced_forward_proves_what_structure_says(name):
    model = build(name)
    if name == "doge" and OLDER:
        pytest.skip("the forward of Doge with experts fails in older releases of transformers, whoever calls it")
    assert prove(model, **FAMILIES[name].inputs()) == discover(model)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_without_weights_shows_the_same_routers(name):
    with torch.device("meta"):
        weightless = model_class(FAMILIES[name])(config_of(FAMILIES[name]))
    assert discover(weightless) == discover(build(name))


def test_at_least_75_of_the_80_router_patterns_can_be_keyed():
    sites = {(name, pattern(s.path), s.router_class): s.keyable for name in INSTALLED for s in discover(build(name))}
    assert len(sites) == sum(len(sites_of(name)) for name in INSTALLED)
    if len(INSTALLED) == len(FAMILIES):
        assert len(sites) == 80
        assert sum(sites.values()) >= 75


def test_the_full_table(snapshot):
    tables = {name: table(discover(build(name))).splitlines() for name in INSTALLED}
    if len(INSTALLED) < len(FAMILIES):
        pytest.skip("this transformers has fewer families")
    assert tables == snapshot


def test_the_document_of_families_says_what_discovery_finds():
    written = DOCUMENT.read_text("utf-8")
    if f"transformers {transformers.__version__}:" not in written:
        pytest.skip("the document describes another transformers")
    assert written == document(), "run: python -m tests.unit.discovery.families_document"


@pytest.mark.parametrize("name", ["deepseek_v3", "switch_transformers", "dbrx", "jetmoe", "gemma4"])
def test_looking_changes_nothing(name):
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {path: set(module.__dict__) for path, module in model.named_modules()}
    search(model)
    assert {path: set(module.__dict__) for path, module in model.named_modules()} == attributes
    prove(model, **FAMILIES[name].inputs())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
