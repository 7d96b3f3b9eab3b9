"""``okr run``: its arguments."""

from typing import Annotated

import typer

from okr.commands.options import (
    AsJson,
    Device,
    Dtype,
    Epsilon,
    MaxMemory,
    Quantization,
    Remote,
    SettingOption,
    Strength,
    Zone,
)
from okr.commands.suite_options import (
    SUITE_OPTIONS,
    Choices,
    HumanEval,
    Judge,
    Pairs,
    Paraphraser,
    Quick,
    SuiteDecoys,
    SuiteName,
    SuiteSamples,
    SuiteTokens,
    check_no_suite_options,
)


def run_command(
    preset: Annotated[str | None, typer.Argument(help="tiny, tiny-switch, switch or deepseek-moe.")] = None,
    output_dir: Annotated[str | None, typer.Option(help="Folder of the results.")] = None,
    samples: Annotated[int | None, typer.Option(help="Watermarked samples; as many controls are made.")] = None,
    max_length: Annotated[int | None, typer.Option(help="New tokens per sample.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples generated at once.")] = None,
    setting: SettingOption = None,
    epsilon: Epsilon = None,
    zone: Zone = None,
    strength: Strength = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    key: Annotated[str | None, typer.Option(help="Key file, env:NAME or fd:N; without it a fresh key is made.")] = None,
    model: Annotated[str | None, typer.Option(help="Embedded name, preset, folder or hub id.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    prompts: Annotated[str | None, typer.Option(help="File with a prompt a line (text or .jsonl).")] = None,
    decoys: Annotated[int | None, typer.Option(help="Decoy keys of every verification.")] = None,
    config: Annotated[str | None, typer.Option(help="JSON or TOML file of settings.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
    suite: SuiteName = None,
    quick: Quick = False,
    suite_samples: SuiteSamples = None,
    suite_tokens: SuiteTokens = None,
    suite_decoys: SuiteDecoys = None,
    judge: Judge = None,
    paraphraser: Paraphraser = None,
    pairs: Pairs = None,
    choices: Choices = None,
    human_eval: HumanEval = False,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Watermark a model, prove it against a control group, and write results.json and report.html.

    A flag goes before the configuration file, the file before the environment (OKR_SAMPLES, ..., QUICK_TEST), the
    environment before the preset. The name of a setting stands for its zone, epsilon and strength.
    """
    given = dict(locals())
    preset, file, again, machine = (given.pop(name) for name in ("preset", "config", "resume", "as_json"))
    asked = {name: given.pop(name) for name in SUITE_OPTIONS}
    from okr.experiment.config import resolve

    resolved = resolve(preset, given | {"trust_remote_code": trust_remote_code or None}, file=file)
    from okr.commands.running import Asked, execute_run

    suites = None
    if suite is None:
        check_no_suite_options(asked)
    else:
        from okr.suites.options import suite_options, suites_of

        suites = Asked(suite_options(asked), suites_of(suite))
    execute_run(resolved, resume=again, as_json=machine, asked=suites)
