"""What the scripts of bench/ reach into."""

from scripts import script

from okr.engines.transformers.swapping import AttachedRouter


def test_the_general_engine_is_timed_where_a_fused_router_stands_ready() -> None:
    routers = script("bench/routers")
    model = routers.Stack((8, 16, 2), 1).eval()
    with routers.intercepted(model, {"epsilon": 1.0}):
        attached = [module for module in model.modules() if isinstance(module, AttachedRouter)]
        assert [router.__dict__["_okr_attachment"].fused for router in attached] == [None]
    with routers.okr.watermark(model, routers.KEY, epsilon=1.0):
        assert attached[0].__dict__["_okr_attachment"].fused is not None
