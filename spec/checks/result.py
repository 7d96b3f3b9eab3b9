"""Chapter RESULT: one small experiment, read as a stranger would."""

import base64
import json
from pathlib import Path
from typing import Any

from ..subject import Subject
from ..verdicts import Violation, require
from . import check


def _document() -> tuple[Path, dict[str, Any]]:
    from .. import experiment

    def refuse(constant: str) -> None:
        raise Violation(f"results.json holds {constant}, which is no JSON")

    folder = experiment.experiment()
    return folder, json.loads((folder / "results.json").read_text("utf-8"), parse_constant=refuse)


@check("OKR-RESULT-001")
def results_follow_the_published_schema(subject: Subject) -> None:
    import jsonschema

    from okr.experiment import results

    _, document = _document()
    schema = json.loads(results.SCHEMA_PATH.read_text("utf-8"))
    try:
        jsonschema.Draft202012Validator(schema).validate(document)
    except jsonschema.ValidationError as error:
        raise Violation(f"{error.json_path}: {error.message}") from error
    require(schema.get("additionalProperties") is False, "the schema lets unnamed fields pass")


@check("OKR-RESULT-002")
def the_founding_fields_are_there(subject: Subject) -> None:
    _, document = _document()
    wanted = {"experiment_name", "config", "summary", "detailed_results"}
    summary = {"total_samples", "watermarked_samples", "average_hit_rate", "detection_threshold"}
    sample = {"sample_id", "original_text", "watermarked_text", "hit_rate", "verdict", "p_value", "opportunities"}
    for place, names, found in (
        ("top level", wanted, document),
        ("summary", summary, document["summary"]),
        *(("sample", sample, entry) for entry in document["detailed_results"]),
    ):
        require(names <= set(found), f"{place}: fields missing", expected=sorted(names), got=sorted(found))


@check("OKR-RESULT-003")
def there_is_a_control_group(subject: Subject) -> None:
    _, document = _document()
    keyed, control = document["detailed_results"], document["control_results"]
    require(len(keyed) == len(control) > 0, "sizes of the groups", got=(len(keyed), len(control)))
    for entry in (*keyed, *control):
        require(entry["verdict"]["key_id"] == document["key_id"], "a sample verified against another key")
        require(0 < entry["p_value"] <= 1, "p-value of a sample", got=entry["p_value"])


@check("OKR-RESULT-004")
def verdicts_follow_from_p_values(subject: Subject) -> None:
    _, document = _document()
    summary = document["summary"]
    found = [entry["verdict"]["watermarked"] for entry in document["detailed_results"]]
    for entry in (*document["detailed_results"], *document["control_results"]):
        expected = entry["p_value"] <= summary["detection_threshold"]
        require(entry["verdict"]["watermarked"] == expected, "a verdict that does not follow", got=entry["sample_id"])
    counts = (summary["total_samples"], summary["watermarked_samples"])
    require(counts == (len(found), sum(found)), "counts of the summary", expected=(len(found), sum(found)), got=counts)


@check("OKR-RESULT-005")
def the_secret_is_nowhere(subject: Subject) -> None:
    from .. import system

    folder, document = _document()
    require(document["key_id"] == system.key().id, "the key's id", expected=system.key().id, got=document["key_id"])
    secret = system.SECRET
    forms = (secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret).rstrip(b"="))
    for path in (p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        require(not any(form in content for form in forms), f"the secret is in {path.relative_to(folder)}")


@check("OKR-RESULT-006")
def verdicts_can_be_checked(subject: Subject) -> None:
    from .. import experiment, system
    from ..system import okr

    folder, document = _document()
    model = experiment.experiment_model()
    for entry in (*document["detailed_results"], *document["control_results"]):
        stored = entry["verdict"]
        setting = {name: float(document["config"][name]) for name in ("epsilon", "strength")}
        verdict = okr.verify(
            model,
            okr.Trace.load(folder / entry["trace"]),
            system.key(),
            decoys=stored["decoys"],
            alpha=stored["alpha"],
            zone=document["config"]["zone"],
            **setting,
        )
        again = (verdict.p_value, verdict.hit_rate, verdict.opportunities)
        expected = (stored["p_value"], stored["hit_rate"], stored["opportunities"])
        require(again == expected, f"sample {entry['sample_id']}", expected=expected, got=again)
