"""One builder for all versions: a `Network` in, an `nn.Module` out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from mnet.errors import ConfigError
from mnet.models.feature_maps import FeatureMap, feature_map
from mnet.models.heads import Head, make_head, uses_tail
from mnet.models.layers import ConvNormAct, Dense, InvertedResidual
from mnet.models.resolved import resolve_blocks
from mnet.models.spec import Network
from mnet.models.toggles import describe


class MobileNet(nn.Module):
    """The module built from a `Network`, which it keeps as `.network`.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes), or the output of the network's head, see `mnet.models.heads`.
    """

    head: Head | None

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        stem, tail, hidden = network.stem, network.tail, network.hidden
        self.stem = ConvNormAct(
            network.in_channels, stem.out_channels, stem.kernel, stem.activation, stride=stem.stride, network=network
        )
        self.blocks = nn.Sequential(*(InvertedResidual(block, network) for block in resolve_blocks(network)))
        channels = network.blocks[-1].out_channels
        self.tail: nn.Module = nn.Identity()
        if tail is not None and uses_tail(network):
            self.tail = ConvNormAct(channels, tail.out_channels, tail.kernel, tail.activation, network=network)
            channels = tail.out_channels
        self.head = None
        if network.head is not None:
            initialise(self)
            self.head = make_head(network)
            return
        self.hidden: nn.Module = nn.Identity()
        if hidden is not None:
            if hidden.norm:
                self.hidden = ConvNormAct(channels, hidden.out_features, 1, hidden.activation, network=network)
            else:
                self.hidden = Dense(channels, hidden.out_features, hidden.activation)
            channels = hidden.out_features
        self.dropout = nn.Dropout(network.dropout)
        self.classifier = nn.Linear(channels, network.num_classes)
        initialise(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map: (N, in_channels, H, W) -> (N, C, ceil(H / 32), ceil(W / 32)) at stride 32."""
        return self.tail(self.blocks(self.stem(x)))

    def feature_maps(self, x: Tensor, maps: Sequence[FeatureMap | str]) -> list[Tensor]:
        """Several feature maps of a batch.

        Args:
            x: Images (N, in_channels, H, W).
            maps: Values of `mnet.feature_maps(net.network)`, or their names: C2, C3, C4, last, C5.

        Returns:
            In the order of `maps`, each (N, channels, ceil(H / stride), ceil(W / stride)).

        Raises:
            ConfigError: The network has no such map.
        """
        requested = [feature_map(self.network, item) if isinstance(item, str) else item for item in maps]
        keys = {(item.block, item.inside) for item in requested}  # all other maps are freed
        tensors: dict[tuple[int, bool], Tensor] = {}
        x = self.stem(x)
        if (-1, False) in keys:
            tensors[-1, False] = x
        for i, block in enumerate(cast(Iterable[InvertedResidual], self.blocks)):
            expanded = block.widen(x)
            if (i, True) in keys:
                tensors[i, True] = expanded
            x = block.narrow(x, expanded)
            if (i, False) in keys:
                tensors[i, False] = x
        if (tail := (len(self.blocks), False)) in keys:
            tensors[tail] = self.tail(x)
        return [tensors[item.block, item.inside] for item in requested]

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before softmax, or the output of the head."""
        if self.head is not None:
            return self.head(self.feature_maps(x, self.head.maps), x.shape[2:])
        pooled = self.forward_features(x).mean((2, 3), keepdim=True)  # runtimes have one operator for it
        return self.classifier(self.dropout(self.hidden(pooled).flatten(1)))


def initialise(module: nn.Module) -> None:
    """Kaiming-normal convolutions (fan out), unit batch norms, N(0, 0.01) linear layers, zero biases.

    Source: torchvision's MobileNets; the papers give no initialisation.
    """
    if next(module.parameters()).is_meta:  # no values to draw, which would take longer than building the layers
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def create_model(
    model: str | Network, *, num_classes: int | None = None, in_channels: int | None = None, **toggles: object
) -> MobileNet:
    """A MobileNet with toggles as keyword arguments, e.g. `create_model('mobilenet_v2', activation='hswish')`.

    Args:
        model: One of `list_models()`, a file written by `write_network`, or a `Network`, built without further changes.
        num_classes: Outputs of the classifier; None = the table's number, 1000 in the papers.
        in_channels: Channels of the images; None = the table's number, 3 in the papers.
        toggles: Fields of `mnet.Toggles`; None = as in the paper.

    Raises:
        ConfigError: Unknown model, toggle or value, an impossible combination, or anything else with a `Network`;
            nothing is built.
    """
    if isinstance(model, Network):
        given = {"num_classes": num_classes, "in_channels": in_channels, **toggles}
        if changed := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"a Network is built as it is, without {', '.join(changed)}; change the Network itself")
        return MobileNet(model)
    return MobileNet(describe(model, num_classes=num_classes, in_channels=in_channels, **toggles))
