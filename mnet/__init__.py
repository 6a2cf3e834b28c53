"""mnet: what each choice of the MobileNet papers buys, measured.

`import mnet` needs only torch and gives `create_model`, `describe`, `cost`, `Toggles`, and the conversion of weights
from and to other libraries' layouts. Import `mnet.data`, `mnet.tasks`, `mnet.training`, `mnet.latency` and
`mnet.studies` when you need them.
"""

from mnet.errors import ConfigError, DataError
from mnet.models.cost import Cost, cost
from mnet.models.feature_maps import FeatureMap, feature_maps
from mnet.models.network import MobileNet, create_model
from mnet.models.spec import Block, Conv, Head, Hidden, Network
from mnet.models.tables import list_models, write_network
from mnet.models.toggles import Toggles, describe
from mnet.weights.formats import load_torchvision, to_timm, to_torchvision
from mnet.weights.load import load_weights

__version__ = "0.1.0"

__all__ = [
    "Block",
    "ConfigError",
    "Conv",
    "Cost",
    "DataError",
    "FeatureMap",
    "Head",
    "Hidden",
    "MobileNet",
    "Network",
    "Toggles",
    "cost",
    "create_model",
    "describe",
    "feature_maps",
    "list_models",
    "load_torchvision",
    "load_weights",
    "to_timm",
    "to_torchvision",
    "write_network",
]
