"""PyTorch on an NVIDIA GPU, recorded once as a CUDA graph and replayed: no launch from Python in between."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from mnet.errors import ConfigError
from mnet.latency.runtimes import Program, Ran, Run, Runtime
from mnet.latency.runtimes.torch_eager import settled


class GraphProgram(Program):
    """A module on the GPU, channels_last."""

    device = "cuda"

    def __init__(self, module: nn.Module, ran: Ran) -> None:
        super().__init__(ran)
        self.module = module

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return self.module(on_gpu(images)).cpu()

    def fresh(self, example: Tensor) -> Run:
        module, image = copy.deepcopy(self.module), on_gpu(example)
        with torch.inference_mode():
            side = torch.cuda.Stream()  # kernels are chosen before they are recorded
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    module(image)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                module(image)
        graph.mnet_keeps = (module, image)  # type: ignore[attr-defined]  # a graph owns neither
        return graph.replay


class CudaGraphs(Runtime):
    simulates = True

    def __init__(self, *settings: object) -> None:
        super().__init__(*settings)  # type: ignore[arg-type]
        if not torch.cuda.is_available():
            raise ConfigError("runtime cuda-graphs needs an NVIDIA GPU, and torch sees none; use eager or executorch")

    @property
    def version(self) -> str:
        return torch.__version__

    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        kernels = f"cuDNN {torch.backends.cudnn.version()}"
        placed = settled(copy.deepcopy(module)).to(memory_format=torch.channels_last)
        placed = placed.cuda()
        return GraphProgram(placed, replace(self.ran(module), kernels=kernels))


def on_gpu(images: Tensor) -> Tensor:
    return images.to("cuda", memory_format=torch.channels_last)
