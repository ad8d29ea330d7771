"""Teachers put into configs: whatever the ids are, only what has to change changes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow
from monai.networks.nets import UNet

from medkit.distill import DistillationLoss, add_distillation, distillation_overlay, tappable_modules
from medkit.distill.engine.recipes import RECIPES
from medkit.workflow.overrides import known_ids, unknown_ids
from tests.bundle_runs import CLGNET, ROOT
from tests.foreign_bundles import CLASSIFICATION, SEGMENTATION, write_bundle

TEACHER = {**CLASSIFICATION["network_def"], "init_features": 6}


def merged(base: dict, terms=("kd",), **options) -> dict:
    overlay = distillation_overlay(list(terms))
    return copy.deepcopy({**base, **{k.lstrip("+"): v for k, v in overlay.items()}, "teacher": TEACHER, **options})


def workflow(folder: Path, base: dict, terms=("kd",), **options) -> ConfigWorkflow:
    bundle = write_bundle(folder / "bundle", base)
    overlay = distillation_overlay(list(terms))
    if "initialize" not in base:
        overlay["initialize"] = overlay.pop("+initialize")
    (folder / "distill.json").write_text(json.dumps(overlay))
    files = [str(bundle / "configs" / "train.json"), str(folder / "distill.json")]
    options |= {"bundle_root": str(bundle), "logging_file": False, "workflow_type": "train"}
    return create_workflow(config_file=files, **options)


def test_the_loss_the_optimizer_and_the_handlers_are_wrapped_where_they_stand():
    config = merged(CLASSIFICATION, ["kd", "sokd"], student_taps=["a"], teacher_taps=["b"])
    changed = add_distillation(config)
    assert config["train"]["trainer"]["loss_function"] == "@distill#loss"
    assert config["distill"]["loss"]["task_loss"] == "@loss"
    assert config["distill"]["loss"]["student"] == "@network"
    assert config["distill"]["loss"]["example"]["loader"] == "@train#dataloader"
    assert config["optimizer"]["params"]["params"] == "$@network.parameters()"
    assert config["optimizer"]["params"]["loss"] == "@distill#loss"
    assert config["train"]["handlers"][:3] == CLASSIFICATION["train"]["handlers"][:3]
    assert config["train"]["handlers"][-2:] == ["@distill#handlers#0", "@distill#handlers#1"]
    assert config["distill"]["handlers"][0]["evaluator"] == "@validate#evaluator"
    weights, state = (handler["save_dict"] for handler in config["train"]["handlers"][3:5])
    assert weights == {"model": "@network"}
    assert state["distillation"] == "@distill#loss"
    assert state["policy"] == "@distill#handlers#1"
    assert changed == {"distill", "train::trainer", "optimizer", "train::handlers"}
    untouched = set(CLASSIFICATION) - {"train", "optimizer", "initialize"}
    assert all(config[name] == CLASSIFICATION[name] for name in untouched)


def test_a_trainer_with_everything_inside_is_wrapped_too():
    config = merged(SEGMENTATION, trainer_id="fitting")
    config["fitting"]["optimizer"] = config.pop("solver")
    config["fitting"]["train_handlers"] = "$[@unet] if True else []"
    add_distillation(config, "fitting", "nowhere")
    assert config["distill"]["loss"]["task_loss"]["_target_"] == "DiceCELoss"
    assert config["fitting"]["optimizer"]["params"]["_target_"] == "medkit.distill.join_parameters"
    assert config["fitting"]["train_handlers"] == "$list([@unet] if True else []) + [@distill#handlers#0]"
    assert config["distill"]["handlers"][0]["evaluator"] is None


@pytest.mark.parametrize("terms", [[name] for name in RECIPES], ids=lambda x: x[0])
def test_every_term_trains_in_a_bundle(terms, tmp_path):
    taps = ["features.denseblock1", "features.denseblock2"]
    needs = RECIPES[terms[0]].needs
    options = {"student_taps": taps, "teacher_taps": taps} if "student_taps" in needs else {}
    if terms == ["crd"]:
        options |= {"kd_n_samples": 6, "kd_index_key": "index"}
        options["data"] = "$[{'image': torch.rand(1, 32, 32), 'label': i % 3, 'index': i} for i in range(6)]"
    if terms == ["unikd"]:
        options["kd_n_classes"] = 3
    made = workflow(tmp_path, CLASSIFICATION, terms, teacher=TEACHER, max_epochs=1, **options)
    made.run()
    trainer = made.parser.get_parsed_content("train#trainer")
    assert isinstance(trainer.loss_function, DistillationLoss)
    assert trainer.state.metrics[f"{terms[0]}_weight"] == pytest.approx(RECIPES[terms[0]].weight / 5)
    assert trainer.state.metrics[f"{terms[0]}_fraction"] > 0


def test_what_was_built_before_and_depends_on_nothing_new_is_kept(tmp_path):
    base = copy.deepcopy(CLASSIFICATION)
    base["initialize"] = ["$@network.eval()", "$setattr(@network, 'mark', 1)", "$@train#trainer.state"]
    made = workflow(tmp_path, base, teacher=TEACHER, max_epochs=1)
    network, trainer = (made.parser.get_parsed_content(id) for id in ("network", "train#trainer"))
    assert network.mark == 1
    assert trainer.network is network
    assert isinstance(trainer.loss_function, DistillationLoss)
    assert trainer.loss_function.student is network


@pytest.mark.parametrize(
    ("change", "ids", "sentence"),
    [
        ({"teacher": None}, {}, "give --teacher, the definition of the network"),
        ({"teacher": "{'a': "}, {}, "--teacher is no JSON"),
        ({"distill": None}, {}, "no 'distill#loss'; merge a distill.json"),
        ({}, {"trainer_id": "trainer"}, r"no trainer 'trainer'; give --trainer_id, such as one of \['train#trainer'\]"),
        ({"optimizer": "$torch.optim.Adam(@network.parameters())"}, {}, "optimizer 'optimizer' must be a component"),
        ({"optimizer": "@solver"}, {}, "the config has no 'solver', which 'optimizer' refers to"),
    ],
)
def test_what_is_missing_is_named(change, ids, sentence):
    config = {**merged(CLASSIFICATION), **change}
    with pytest.raises(ValueError, match=sentence) as error:
        add_distillation(config, **ids, required=["teacher"])
    assert "\n" not in str(error.value)


def test_a_trainer_without_a_loss_is_no_supervised_one():
    config = merged(CLASSIFICATION)
    del config["train"]["trainer"]["loss_function"]
    with pytest.raises(ValueError, match=r"'train#trainer' has no \['loss_function'\]"):
        add_distillation(config)


def test_a_definition_in_json_is_read():
    config = merged(CLASSIFICATION, teacher='{"_target_": "UNet", "use": true}')
    add_distillation(config)
    assert config["teacher"] == {"_target_": "UNet", "use": True}


def test_a_misspelt_option_is_refused(tmp_path):
    with pytest.raises(RuntimeError) as error:
        workflow(tmp_path, CLASSIFICATION, teacher=TEACHER, techer_ckpt="x")
    assert "unknown option 'techer_ckpt': did you mean 'teacher_ckpt'?" in str(error.value.__cause__)


@pytest.mark.parametrize("name", ["sokd", "unikd"])
def test_the_overlays_of_the_bundles_are_those_of_the_terms(name):
    path = ROOT / "bundles" / name / "configs" / "distill.json"
    assert json.loads(path.read_text()) == distillation_overlay([name])


@pytest.mark.parametrize("name", ["sokd", "unikd"])
def test_a_bundle_of_medkit_takes_the_overlay(name):
    """Its check of options, which comes first, knows what the overlay brings."""
    parser = ConfigParser()
    parser.read_config(
        [str(CLGNET / "configs" / "train.json"), str(ROOT / "bundles" / name / "configs" / "distill.json")]
    )
    assert list(unknown_ids(parser.get(), known_ids(CLGNET / "configs"), set(), parser)) == []
    parser["teacher"] = TEACHER
    add_distillation(parser.get())
    kept = parser["train#handlers"][-2 if name == "unikd" else -3]["save_dict"]
    assert kept["distillation"] == "@distill#loss"
    assert parser["train#handlers"][0]["_target_"] == "medkit.workflow.WeightAverage"


def test_unknown_terms_are_refused():
    with pytest.raises(ValueError, match=r"must be names out of .*, got \['fit'\]"):
        distillation_overlay(["kd", "fit"])
    with pytest.raises(ValueError, match="got none"):
        distillation_overlay([])


def test_tappable_modules_have_the_shapes_of_their_outputs():
    net = UNet(2, 1, 3, (4, 8), (2,)).train()
    shapes = tappable_modules(net, torch.zeros(1, 1, 16, 16))
    assert shapes["bottom"] == (1, 8, 8, 8)
    assert shapes["decoder1"] == (1, 3, 16, 16)
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
