"""The package as a whole: its pure functions, and its routers at work in models."""

from .torch_router import TorchRouter


class Package(TorchRouter):
    """Judged by the system clauses too; their checks drive okr.watermark, okr.record, okr.Trace and okr.verify."""

    name = "okr"
    levels = ("routing", "system")


package = Package()
