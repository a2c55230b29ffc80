"""Plans with their reasons."""

from __future__ import annotations

from autolmk.files.serialization import to_json
from autolmk.plans import Configuration, Plans
from autolmk.report.blocks import Block, Facts, Fold, Section, TableBlock, Text, section
from autolmk.report.sources import Sources
from autolmk.report.wording import NOTHING, plain

BESIDES = ("why", "options", "trainer", "previous_stage", "data_identifier")


def planning(sources: Sources) -> Section:
    """The trained configurations, stage by stage, each number with its reason."""
    if not sources.models:
        text = "Nothing is trained yet: autolmk_plan_and_preprocess plans, and autolmk_train trains a configuration."
        return section("plans", "Plans and their reasons", [Text(text, missing=True)])
    blocks: list[Block] = []
    done: set[str] = set()
    for model in sources.models:
        plans = model.plans
        if plans.digest() not in done:
            done.add(plans.digest())
            blocks += _of_dataset(plans)
        chain = plans.chain(model.configuration)
        said = f"{len(chain)} stages: {', then '.join(chain)}" if len(chain) > 1 else "one stage"
        for stage in chain:
            folded = (_stage(plans.configurations[stage], stage),)
            title = f"{sources.names.of(model.name)}, {said}" if stage == chain[0] else f"… its stage {stage}"
            blocks.append(Fold(title, folded, hidden=True))
    return section("plans", "Plans and their reasons", blocks)


def _of_dataset(plans: Plans) -> list[Block]:
    facts = [
        ("plans", plans.plans_name),
        ("preset", f"{plans.preset}, for {plans.device} with {plans.memory_target_gb:g} GiB"),
        ("may be absent", ", ".join(plans.sometimes_absent) or "no landmark"),
    ]
    rows = tuple((key, reason) for key, reason in plans.why.items())
    table = TableBlock(f"Reasons in {plans.plans_name} that concern all configurations", ("what", "why"), "ll", rows)
    return [Facts(tuple(facts)), *([table] if rows else [])]


def _stage(configuration: Configuration, name: str) -> TableBlock:
    """Each number beside its reason; those of an object, such as schedule, in one row unless it has reasons itself."""
    content, why = to_json(configuration), dict(configuration.why)
    rows = []
    for key, value in content.items():
        inner = [k for k in why if k.startswith(f"{key}.")]
        if key in BESIDES:
            continue
        if inner and isinstance(value, dict):
            general = why.pop(key, NOTHING)
            rows += [(f"{key}.{k}", plain(v), why.pop(f"{key}.{k}", general)) for k, v in value.items()]
        else:
            rows.append((key, plain(value), why.pop(key, NOTHING)))
    rows += [
        (f"options.{k}", plain(v), why.pop(f"options.{k}", why.pop(k, NOTHING)))
        for k, v in configuration.options.items()
    ]
    rows += [(key, NOTHING, reason) for key, reason in why.items()]
    caption = f"{name}: trained by {configuration.trainer}"
    return TableBlock(caption, ("number", "value", "why"), "lll", tuple(rows))
