"""``okr serve``: an OpenAI-compatible server under a key."""

import os
from pathlib import Path
from typing import Annotated

import typer

from okr.commands.options import AskedSetting, Epsilon, SettingOption, Strength, Zone
from okr.errors import InvalidConfig


def serve_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Embedded name, preset, folder or hub id of a decoder-only model.")],
    key: Annotated[Path | None, typer.Option("--key", help="Key file (see okr keygen). None: native routing.")] = None,
    setting: SettingOption = None,
    epsilon: Epsilon = None,
    zone: Zone = None,
    strength: Strength = None,
    traces: Annotated[
        Path | None, typer.Option(help="Folder that gets a trace file of every finished request.")
    ] = None,
    routed_experts: Annotated[
        bool, typer.Option("--routed-experts/--no-routed-experts", help="Return the experts that ran with each answer.")
    ] = True,
    opt_out: Annotated[
        bool, typer.Option("--opt-out/--no-opt-out", help="Let a request ask to be routed natively.")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print vLLM's command and leave.")] = False,
) -> None:
    """Serve a model with vLLM, its routers under a key. All other options are vLLM's own and passed on to it.

    An answer names the key that it is under (okr_key_id) and holds the experts that ran, so that okr verify can prove
    it. A request opts out with "vllm_xargs": {"okr": false}, unless --no-opt-out. The server reads the key file; no
    secret is in its command line, its log or its answers.
    """
    import shlex

    from okr.baking.models import refuse_baked
    from okr.engines.vllm.configuration import Configuration
    from okr.engines.vllm.serving import command, environment, make_journal
    from okr.routing import Key

    chosen = AskedSetting.checked(setting, epsilon, zone, strength).for_generation(model)
    if key is not None and not str(key).startswith(("env:", "fd:")):
        Key.load(key)  # what is wrong with it is said now, and only its own errors never show a key
    if key is not None and not key.is_file():
        raise InvalidConfig(f"--key {key}: vLLM's processes read the key themselves, so it must be a file (okr keygen)")
    if key is not None:
        refuse_baked(model)
    if traces is not None and not routed_experts:
        raise InvalidConfig("--traces needs the routed experts: leave --no-routed-experts out")
    configuration = Configuration(
        key_file=None if key is None else str(key.resolve()),
        zone=chosen.zone,
        epsilon=chosen.epsilon,
        strength=chosen.strength,
        record=routed_experts,
        opt_out=opt_out,
        journal=None if traces is None else str(traces.resolve()),
    )
    line = command(model, configuration, context.args)
    if dry_run:
        print(shlex.join(line))
        return
    if traces is not None:
        make_journal(traces)
    os.execve(line[0], line, environment(model))  # noqa: S606 - the server takes this process's place, and its signals
