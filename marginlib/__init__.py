"""Margins in the softmax loss: one module a chapter, one number per example."""

from .check import Report as Report
from .check import check as check
from .heads import LinearHead as LinearHead
from .hinge import dense_hinge_loss as dense_hinge_loss
from .hinge import hard_bias_loss as hard_bias_loss
from .hinge import hinge_loss as hinge_loss
from .hinge import sparsemax_loss as sparsemax_loss
from .large_margin import disagreement as disagreement
from .large_margin import kl_from_uniform as kl_from_uniform
from .large_margin import kl_to_uniform as kl_to_uniform
from .large_margin import label_smoothing_loss as label_smoothing_loss
from .large_margin import large_margin_loss as large_margin_loss
from .large_margin import supersymmetry_gap as supersymmetry_gap
from .rivals import split as split
from .soft_margin import soft_margin_loss as soft_margin_loss
from .softmax import implicit_bias as implicit_bias
from .softmax import margin as margin
from .softmax import softmax_loss as softmax_loss

__version__ = "0.1.0"
