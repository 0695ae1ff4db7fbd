"""Steering: transforms at sites of a frozen model, with a strength; attach, verify, save."""

from equipoise.steering.attach.attachment import Attachment
from equipoise.steering.gates import Gate, KernelGate, ProbeGate
from equipoise.steering.info import SteeringInfo
from equipoise.steering.scope import Scope
from equipoise.steering.steering import Steering
from equipoise.steering.transforms import Additive, Affine, Replace, Scale, Transform

__all__ = [
    "Additive",
    "Affine",
    "Attachment",
    "Gate",
    "KernelGate",
    "ProbeGate",
    "Replace",
    "Scale",
    "Scope",
    "Steering",
    "SteeringInfo",
    "Transform",
]
