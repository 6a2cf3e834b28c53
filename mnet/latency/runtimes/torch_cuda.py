"""PyTorch on an NVIDIA GPU, recorded as a CUDA graph and replayed without launches from Python."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from mnet.errors import ConfigError
from mnet.latency.runtimes import Program, ProgramInfo, Run, Runtime
from mnet.latency.runtimes.torch_eager import eval_mode


class GraphProgram(Program):
    """A module on the GPU, channels_last."""

    device = "cuda"

    def __init__(self, module: nn.Module, info: ProgramInfo) -> None:
        super().__init__(info)
        self.module = module

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return self.module(_on_gpu(images)).cpu()

    def fresh(self, example: Tensor) -> Run:
        module, image = copy.deepcopy(self.module), _on_gpu(example)
        with torch.inference_mode():
            side = torch.cuda.Stream()  # choose kernels before recording them
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    module(image)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                module(image)
        graph.mnet_keeps = (module, image)  # type: ignore[attr-defined]  # a graph keeps neither alive
        return graph.replay


class CudaGraphs(Runtime):
    simulates = True

    def __init__(self, *settings: object) -> None:
        super().__init__(*settings)  # type: ignore[arg-type]
        if not torch.cuda.is_available():
            raise ConfigError("runtime cuda-graphs needs an NVIDIA GPU, and torch finds none; use eager or executorch")

    @property
    def version(self) -> str:
        return torch.__version__

    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        kernels = f"cuDNN {torch.backends.cudnn.version()}"
        on_device = eval_mode(copy.deepcopy(module)).to(memory_format=torch.channels_last).cuda()
        return GraphProgram(on_device, replace(self.describe(module), kernels=kernels))


def _on_gpu(images: Tensor) -> Tensor:
    return images.to("cuda", memory_format=torch.channels_last)
