"""What a GPU changes, as far as it shows without one."""

from __future__ import annotations

import pytest
import torch

from kdsearch.device import device_policy
from kdsearch.search import driver


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, torch.bfloat16), (False, None)])
def test_bf16_is_for_gpus_that_have_it(monkeypatch, has_bf16, expected):
    def is_bf16_supported(including_emulation=True):
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert device_policy("cuda").autocast == expected


def test_the_process_that_trained_the_teacher_ends_and_gives_its_gpu_back():
    assert driver._train_teacher._max_calls == 1
