"""Table of methods: a union of configurations, which is also the schema and lists the kinds in error messages.

A configuration builds its method from channel counts; the method computes terms from a student's output and a batch:

>>> import torch
>>> from pydantic import TypeAdapter
>>> from sward.contracts import Batch, StudentOutput
>>> from sward.methods import MethodConfig
>>> config = TypeAdapter(MethodConfig).validate_python({"kind": "mgd", "level": "s16", "logits": 3})
>>> teacher = {"s16": 8, "s32": 16, "penultimate": 4, "logits": 2}  # the last two come from a fitted head
>>> method = config.build(teacher, student={"s16": 6, "s32": 12}, num_classes=2, penultimate=5)
>>> method.needs, method.weights
(('s16', 'logits'), {'task': 1.0, 'reconstruction': 2e-05, 'logits': 3.0})
>>> features = {"s16": torch.ones(2, 8, 4, 4), "logits": torch.ones(2, 2, 16, 16)}  # of the teacher, those needed
>>> batch = Batch(torch.ones(2, 3, 64, 64), torch.zeros(2, 64, 64).long(), features, ids=["a/0", "b/0"], seed=0)
>>> method.prepare(batch, statistics={})  # initial weights and queues, from the batch's seed; once
>>> levels = {"s16": torch.ones(2, 6, 4, 4), "s32": torch.ones(2, 12, 2, 2)}
>>> output = StudentOutput(torch.ones(2, 2, 32, 32), levels, penultimate=torch.ones(2, 5, 32, 32))
>>> {name: tuple(term.shape) for name, term in method(output, batch, step=0).items()}  # unweighted
{'reconstruction': (), 'logits': ()}

``prepare`` draws initial weights, so load other weights after it; give what a pre-stage learned (MasKD, FreeKD) or a
pass over the records counted (RADIO) to ``load_prestage``. ``sward`` and ``ckd`` read ``statistics`` (level -> mean,
std), and so does ``radio`` with ``target: channel``.
"""

from typing import Annotated

from pydantic import Field

from sward.methods.at import ATConfig
from sward.methods.attention.ckd import CKDConfig
from sward.methods.attention.reviewkd import ReviewKDConfig
from sward.methods.cankd import CanKDConfig
from sward.methods.cirkd.cirkd import CIRKDConfig
from sward.methods.combined import CombinedConfig
from sward.methods.cwd import CWDConfig
from sward.methods.fitnet import FitNetConfig
from sward.methods.heteroakd import HeteroAKDConfig
from sward.methods.kd import KDConfig
from sward.methods.logits.dkd import DKDConfig
from sward.methods.logits.ofa import OFAConfig
from sward.methods.masked.freekd import FreeKDConfig
from sward.methods.masked.maskd import MasKDConfig
from sward.methods.mgd import MGDConfig
from sward.methods.plain import PlainConfig
from sward.methods.radio.radio import RADIOConfig
from sward.methods.relations.afdcd import AfDCDConfig
from sward.methods.relations.dist import DISTConfig
from sward.methods.relations.ifvd import IFVDConfig
from sward.methods.relations.skd import SKDConfig
from sward.methods.sard.sard import SARDConfig
from sward.methods.sward import SwardConfig

# To add a method: write a file with its config (a ``kind`` and ``build``), and add the config's name here.
MethodConfig = Annotated[
    PlainConfig
    | SwardConfig
    | FitNetConfig
    | ATConfig
    | CWDConfig
    | MGDConfig
    | CanKDConfig
    | SARDConfig
    | HeteroAKDConfig
    | KDConfig
    | CIRKDConfig
    | MasKDConfig
    | FreeKDConfig
    | SKDConfig
    | IFVDConfig
    | DISTConfig
    | AfDCDConfig
    | RADIOConfig
    | DKDConfig
    | OFAConfig
    | CKDConfig
    | ReviewKDConfig
    | CombinedConfig,
    Field(discriminator="kind"),
]

CombinedConfig.model_rebuild(_types_namespace={"MethodConfig": MethodConfig})  # its parts are methods of this table
