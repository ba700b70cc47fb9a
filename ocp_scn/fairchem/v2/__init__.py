"""SCN in fairchem-core 2 (2.24), which finds the classes here by dotted path.

A configuration's model section names `SCNModel`, its backbone `SCNBackbone` and one of the
heads; nothing is registered.
"""

from ocp_scn.fairchem.v2.backbone import SCNBackbone
from ocp_scn.fairchem.v2.checkpoint import load_inference_model, load_predict_unit, load_tasks
from ocp_scn.fairchem.v2.data import AseDatabase
from ocp_scn.fairchem.v2.finetuning import finetuned_model, finetuned_normalizer, finetuned_references
from ocp_scn.fairchem.v2.heads import ConservativeHead, EnergyHead, ForceHead
from ocp_scn.fairchem.v2.log import LossLog
from ocp_scn.fairchem.v2.model import SCNModel
from ocp_scn.fairchem.v2.predict import PredictRunner
from ocp_scn.fairchem.v2.references import element_references
from ocp_scn.fairchem.v2.runner import EvaluateRunner, TrainRunner
from ocp_scn.fairchem.v2.tasks import float_normalizer
from ocp_scn.fairchem.v2.training import TrainingGuard, step_schedule

__all__ = [
    "AseDatabase",
    "ConservativeHead",
    "EnergyHead",
    "EvaluateRunner",
    "ForceHead",
    "LossLog",
    "PredictRunner",
    "SCNBackbone",
    "SCNModel",
    "TrainRunner",
    "TrainingGuard",
    "element_references",
    "finetuned_model",
    "finetuned_normalizer",
    "finetuned_references",
    "float_normalizer",
    "load_inference_model",
    "load_predict_unit",
    "load_tasks",
    "step_schedule",
]
