"""What training needs, imported once by the server that worker processes are forked from.

It collects no garbage meanwhile, which takes a tenth of the time; what is frozen is never looked through by workers,
and so stays in memory that they share.
"""

import gc

gc.disable()

import mnet.studies.runs.packs  # noqa: E402
import mnet.studies.runs.run  # noqa: E402
import mnet.tasks.classification  # noqa: E402, F401

gc.freeze()
gc.enable()
