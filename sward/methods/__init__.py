"""The table of methods. Its union is registry, schema and error message at once."""

from typing import Annotated

from pydantic import Field

from sward.methods.at import ATConfig
from sward.methods.cankd import CanKDConfig
from sward.methods.cwd import CWDConfig
from sward.methods.fitnet import FitNetConfig
from sward.methods.heteroakd import HeteroAKDConfig
from sward.methods.mgd import MGDConfig
from sward.methods.plain import PlainConfig
from sward.methods.sard import SARDConfig
from sward.methods.sward import SwardConfig

# A new method: its own file with a config (a ``kind`` and ``build``), and its config's name in this line.
MethodConfig = Annotated[
    PlainConfig
    | SwardConfig
    | FitNetConfig
    | ATConfig
    | CWDConfig
    | MGDConfig
    | CanKDConfig
    | SARDConfig
    | HeteroAKDConfig,
    Field(discriminator="kind"),
]
