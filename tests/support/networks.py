"""Networks and settings that several tests share."""

from torch import nn

SSDLITE = {"head": "ssdlite", "reduced_tail": True, "lowest_boxes": 6}
LR_ASPP = {"head": "lr_aspp", "output_stride": 16}


def lively(net: nn.Module) -> nn.Module:
    """Weights and statistics under which outputs are of order one (freshly initialised they are 1e-9)."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, (1.6 / module.weight[0].numel()) ** 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net
