"""The overlay that puts teachers into a bundle: terms by name, each with its arguments, weight and taps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """A term as it stands in an overlay.

    Attributes:
        target: class of the term.
        arguments: of it, as a config has them.
        weight: that belongs to it.
        taps: ``""``: none, ``"one"``: the last of the taps, ``"all"``: all of them.
        needs: options of the overlay that must be given.
        options: further options with their defaults.
    """

    target: str
    arguments: dict[str, Any]
    weight: float = 1.0
    taps: str = ""
    needs: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


_FEATURE = ("student_taps", "teacher_taps")
RECIPES = {
    "kd": Recipe("LogitKD", {"temperature": "@kd_temperature"}, options=(("kd_temperature", 4.0),)),
    "dkd": Recipe("DKD", {"beta": 2.0, "temperature": "@kd_temperature"}, options=(("kd_temperature", 4.0),)),
    "mlkd": Recipe("MLKD", {}),
    "dist": Recipe("DIST", {}),
    "bernoulli": Recipe("BernoulliKD", {}),
    "fitnet": Recipe("FitNet", {}, taps="one", needs=_FEATURE),
    "at": Recipe("AttentionTransfer", {}, 1000.0, "one", _FEATURE),
    "sp": Recipe("SimilarityPreserving", {}, taps="one", needs=_FEATURE),
    "rkd": Recipe("RelationalKD", {}, taps="one", needs=_FEATURE),
    "cwd": Recipe("ChannelWiseKD", {}, taps="one", needs=_FEATURE),
    "crd": Recipe("CRD", {"n_samples": "@kd_n_samples"}, 0.8, "one", (*_FEATURE, "kd_n_samples", "kd_index_key")),
    "review": Recipe("ReviewKD", {}, taps="all", needs=_FEATURE),
    "hmds": Recipe("HMDS", {}, 0.1, "all", _FEATURE),
    "sokd": Recipe(
        "SoKD",
        {
            "base": {"_target_": "medkit.distill.FitNet"},
            "refiner": {"_target_": "medkit.distill.FeatureRefiner", "operations": "@kd_operations"},
            "n_areas": "@kd_n_areas",
            "area_weight": "@kd_area_weight",
        },
        taps="one",
        needs=_FEATURE,
        options=(
            ("kd_operations", ["channel_drop", "cutout", "noise"]),
            ("kd_n_areas", 8),
            ("kd_area_weight", 100.0),
            ("kd_search_epochs", 20),
            ("kd_bilevel", "first_order"),
        ),
    ),
    "unikd": Recipe(
        "UnifiedDistributionKD",
        {"n_classes": "@kd_n_classes", "pool": "@kd_pool", "use_sigmoid": "@kd_use_sigmoid"},
        taps="all",
        needs=(*_FEATURE, "kd_n_classes"),
        options=(("kd_pool", "global"), ("kd_use_sigmoid", False)),
    ),
}


def distillation_overlay(terms: Sequence[str]) -> dict[str, Any]:
    """Make the overlay that, merged behind any training config of MONAI, puts a teacher into it.

    Options whose plain names a bundle may have itself begin with ``kd_``.

    Args:
        terms: names out of ``kd dkd mlkd dist bernoulli fitnet at sp rkd cwd crd review hmds sokd unikd``.

    Returns:
        Content of a config: options first, the section ``distill``, and a line for ``initialize``.

    Raises:
        ValueError: if a term is unknown.

    Example:
        >>> distillation_overlay(["kd"])["kd_temperature"]
        4.0
    """
    if not terms or (unknown := [name for name in terms if name not in RECIPES]):
        got = unknown if terms else "none"
        raise ValueError(f"distillation_overlay: 'terms' must be names out of {list(RECIPES)}, got {got}")
    chosen = {name: RECIPES[name] for name in terms}
    needs = ["teacher", *dict.fromkeys(option for recipe in chosen.values() for option in recipe.needs)]
    own: dict[str, Any] = {option: [] if option in _FEATURE else None for option in needs[1:]}
    for recipe in chosen.values():
        own |= dict(recipe.options)
    return {
        "teacher": None,
        "teacher_ckpt": None,
        "teacher_key": None,
        **own,
        **({} if "kd_index_key" in own else {"kd_index_key": None}),
        "kd_example_shape": None,
        "kd_task_weight": 1.0,
        **{f"{name}_weight": recipe.weight for name, recipe in chosen.items()},
        "kd_warmup_epochs": 5,
        "student_ckpt": None,
        "student_metric": None,
        "kd_force": False,
        "trainer_id": "train#trainer",
        "evaluator_id": "validate#evaluator",
        "distill": {"loss": _loss(chosen), "handlers": _handlers(chosen)},
        "+initialize": [
            {
                "_target_": "medkit.distill.install_distillation",
                "trainer_id": "@trainer_id",
                "evaluator_id": "@evaluator_id",
                "required": needs,
            }
        ],
    }


def _loss(chosen: dict[str, Recipe]) -> dict[str, Any]:
    return {
        "_target_": "medkit.distill.DistillationLoss",
        "_desc_": "student, task_loss, and an example that is null become those of the trainer",
        "student": "@train#trainer#network",
        "teacher": {
            "_target_": "medkit.distill.load_teacher",
            "network": "@teacher",
            "ckpt_path": "@teacher_ckpt",
            "key": "@teacher_key",
        },
        "task_loss": "@train#trainer#loss_function",
        "terms": {name: _term(name, recipe) for name, recipe in chosen.items()},
        "example": "@kd_example_shape",
        "task_weight": "@kd_task_weight",
    }


def _term(name: str, recipe: Recipe) -> dict[str, Any]:
    taps: dict[str, Any] = {}
    if recipe.taps:
        form = "@{}" if recipe.taps == "all" else "$@{}[-1:]"
        taps = {option: form.format(option) for option in _FEATURE}
    return {
        "_target_": "medkit.distill.WeightedTerm",
        "term": {"_target_": f"medkit.distill.{recipe.target}", **recipe.arguments},
        "weight": {
            "_target_": "medkit.distill.LinearWarmup",
            "value": f"@{name}_weight",
            "duration": "@kd_warmup_epochs",
        },
        **taps,
    }


def _handlers(chosen: dict[str, Recipe]) -> list[dict[str, Any]]:
    handlers: list[dict[str, Any]] = [
        {
            "_target_": "medkit.distill.DistillationHandler",
            "loss": "@distill#loss",
            "evaluator": "@validate#evaluator",
            "index_key": "@kd_index_key",
            "student_ckpt": "@student_ckpt",
            "student_metric": "@student_metric",
            "force": "@kd_force",
        }
    ]
    if "sokd" in chosen:
        handlers.append(
            {
                "_target_": "medkit.distill.SoKDPolicyHandler",
                "loss": "@distill#loss",
                "search_epochs": "@kd_search_epochs",
                "bilevel": "@kd_bilevel",
            }
        )
    return handlers
