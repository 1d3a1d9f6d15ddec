"""What our operators ask of their device, as torch.compile sees it."""

import torch

from kernels import device


def test_capability_is_a_constant_to_torch_compile_as_torch_itself_marks_one():
    def marked():
        return 90

    assert vars(torch.compiler.assume_constant_result(marked)).items() <= vars(device.capability).items()
    traced = torch.compile(lambda x: x + device.capability(x.device), backend="eager", fullgraph=True)
    assert traced(torch.zeros(1)).item() == device.capability(torch.device("cpu"))
