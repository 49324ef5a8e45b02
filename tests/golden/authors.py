"""Optimisers of the authors' repositories, under lrjax's names; see sources.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from sources import load


def lion(groups: list[dict], **kwargs: Any):
    """Lion as in google/automl."""
    return load("google/automl", "lion/lion_pytorch.py").Lion(groups, **kwargs)


class Muon:
    """The authors' Muon, without its rounding to bfloat16.

    It sees matrices as PyTorch has them, [outputs, inputs]. With `consistent_rms` their
    factor is replaced by that of Moonlight.
    """

    def __init__(
        self,
        groups,
        lr=0.02,
        momentum=0.95,
        nesterov=True,
        ns_steps=5,
        consistent_rms=None,
        adam_factor=0.015,
        betas=(0.9, 0.95),
        eps=1e-10,
        weight_decay=0.0,
        hidden=None,
    ):
        self.module = load("KellerJordan/Muon", "muon.py")
        (group,) = groups
        self.param_groups, self.params = [{"lr": lr}], group["params"]
        self.factor = adam_factor
        self.turned = [torch.nn.Parameter(p.detach().t().clone()) for p in self.params]
        common = {"weight_decay": weight_decay}
        first = {"momentum": momentum, "use_muon": True} | common
        other = {"betas": betas, "eps": eps, "use_muon": False} | common
        matrices = [p for p in self.turned if p.ndim > 1 and hidden is None]
        rest = [p for p in self.turned if p.ndim <= 1 or hidden is not None]
        self.optimizer = self.module.SingleDeviceMuonWithAuxAdam(
            [{"params": matrices} | first, {"params": rest} | other]
        )
        official = self.module.muon_update

        def update(grad, buffer, beta):
            shape = grad.shape
            step = official(
                grad, buffer, beta=beta, ns_steps=ns_steps, nesterov=nesterov
            )
            if consistent_rms is None:
                return step
            theirs = max(1, shape[-2] / shape[-1]) ** 0.5
            return step * (consistent_rms * max(shape) ** 0.5 / theirs)

        self.update = update

    def step(self):
        rate = self.param_groups[0]["lr"]
        for group in self.optimizer.param_groups:
            group["lr"] = rate if group["use_muon"] else self.factor * rate
        for turned, param in zip(self.turned, self.params, strict=True):
            turned.grad = param.grad.t().clone()
        with (
            mock.patch.object(self.module, "muon_update", self.update),
            mock.patch.object(torch.Tensor, "bfloat16", lambda tensor: tensor),
        ):
            self.optimizer.step()
        for turned, param in zip(self.turned, self.params, strict=True):
            param.data.copy_(turned.detach().t())


class SOAP:
    """The authors' SOAP, without its rounding to float32."""

    def __init__(self, groups, use_bias_correction=True, shampoo_beta=-1, **kwargs):
        module = load("nikhilvyas/SOAP", "soap.py")
        self.optimizer = module.SOAP(
            groups,
            correct_bias=use_bias_correction,
            shampoo_beta=shampoo_beta,
            **kwargs,
        )
        self.param_groups = self.optimizer.param_groups

    def step(self):
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            self.optimizer.step()


def adopt(groups: list[dict], clip_power: float | None = 0.25, **kwargs: Any):
    """ADOPT as in iShohei220/adopt."""
    clip = None if clip_power is None else lambda step: step**clip_power
    module = load("iShohei220/adopt", "src/adopt/adopt.py")
    return module.ADOPT(groups, clip_lambda=clip, foreach=False, **kwargs)


def _betas(betas: tuple, beta3: float | None, last: float) -> tuple:
    return (*betas, last if beta3 is None else beta3)


def ademamix(groups, betas=(0.9, 0.999), beta3=None, b3_warmup=None, **kwargs: Any):
    """AdEMAMix as in apple/ml-ademamix."""
    module = load("apple/ml-ademamix", "pytorch/ademamix.py")
    betas = _betas(betas, beta3, 0.9999)
    return module.AdEMAMix(groups, betas=betas, beta3_warmup=b3_warmup, **kwargs)


def adan(groups, betas=(0.98, 0.92), beta3=None, proximal=True, **kwargs: Any):
    """Adan as in sail-sg/Adan."""
    betas = _betas(betas, beta3, 0.99)
    module = load("sail-sg/Adan", "adan.py")
    return module.Adan(
        groups, betas=betas, no_prox=not proximal, foreach=False, **kwargs
    )


_TIMM = "huggingface/pytorch-image-models"


def lars(
    groups,
    momentum: float | None = 0.9,
    weight_decay=5e-4,
    trust_coefficient=1e-3,
    **kwargs: Any,
):
    """Lars as in timm, with the paper's momentum and decay."""
    return load(_TIMM, "timm/optim/lars.py").Lars(
        groups,
        momentum=momentum or 0.0,
        weight_decay=weight_decay,
        trust_coeff=trust_coefficient,
        **kwargs,
    )


def lamb(groups, use_bias_correction=True, **kwargs: Any):
    """Lamb as in timm."""
    module = load(_TIMM, "timm/optim/lamb.py")
    return module.Lamb(groups, bias_correction=use_bias_correction, **kwargs)


def cautious(groups, base_optimizer: tuple[str, dict]):
    """timm's Lion with caution."""
    name, kwargs = base_optimizer
    assert name == "lion"
    rate = kwargs["learning_rate"]
    betas = kwargs.get("b1", 0.9), kwargs.get("b2", 0.99)
    module = load(_TIMM, "timm/optim/lion.py")
    return module.Lion(groups, lr=rate, betas=betas, caution=True, foreach=False)


class CautiousAdamW:
    """The authors' AdamW, with `eps` beside the corrected root as in PyTorch's."""

    def __init__(self, groups, eps=1e-6, **kwargs):
        module = load("kyleliang919/C-Optim", "c_adamw.py")
        self.optimizer = module.AdamW(
            groups, foreach=False, no_deprecation_warning=True, **kwargs
        )
        self.param_groups, self.eps, self.steps = self.optimizer.param_groups, eps, 0

    def step(self):
        self.steps += 1
        for group in self.param_groups:
            correction = 1 - group["betas"][1] ** self.steps
            group["eps"] = self.eps * correction**0.5
        self.optimizer.step()


def adog(groups: list[dict], **kwargs: Any):
    """AcceleDoG as in ittaikr/open_lm_fork, which wants its parameters numbered."""
    params = [param for group in groups for param in group["params"]]
    for number, param in enumerate(params):
        param.id_number = number
    return load("ittaikr/open_lm_fork", "accele_dog.py").AcceleDoG(groups, **kwargs)


class ScheduleFreePlus:
    """ScheduleFree+ as in facebookresearch/schedule_free, which is told the loss."""

    def __init__(self, groups: list[dict], **kwargs: Any):
        path = "schedulefree/adamc_schedulefree_plus_paper.py"
        module = load("facebookresearch/schedule_free", path)
        self.optimizer = module.AdamCScheduleFreePlusPaper(groups, **kwargs)
        self.param_groups, self.state = (
            self.optimizer.param_groups,
            self.optimizer.state,
        )
        self.train = self.optimizer.train

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.step_func(loss)


# method -> (source, what builds the optimizer)
AUTHORS: dict[str, tuple[str, Callable]] = {
    "lion": ("google/automl Lion", lion),
    "muon": ("KellerJordan/Muon SingleDeviceMuonWithAuxAdam", Muon),
    "soap": ("nikhilvyas/SOAP SOAP", SOAP),
    "adopt": ("iShohei220/adopt ADOPT", adopt),
    "ademamix": ("apple/ml-ademamix AdEMAMix", ademamix),
    "adan": ("sail-sg/Adan Adan", adan),
    "lars": ("huggingface/pytorch-image-models Lars", lars),
    "lamb": ("huggingface/pytorch-image-models Lamb", lamb),
    "cautious": ("huggingface/pytorch-image-models Lion(caution=True)", cautious),
    "cautious_adamw": ("kyleliang919/C-Optim AdamW", CautiousAdamW),
    "adog": ("ittaikr/open_lm_fork AcceleDoG", adog),
    "schedule_free_plus": (
        "facebookresearch/schedule_free AdamCScheduleFreePlusPaper",
        ScheduleFreePlus,
    ),
}
