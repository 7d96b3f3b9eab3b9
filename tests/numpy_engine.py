"""A second engine: a tiny language model with routed experts, in NumPy alone.

It fulfils :class:`okr.engines.protocol.Engine` without torch modules, hooks or transformers, so that whatever detection
asks beyond the protocol shows. A token sees the mean of the tokens up to it; two layers route to 2 of 12 experts.
"""

import hashlib
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch

from okr.discovery import RouterSite
from okr.engines.matching import matching_sites
from okr.routing import key_scores, select
from okr.traces import ModelIdentity, Trace, TraceHeader
from okr.traces.header import TraceSite

VOCABULARY, HIDDEN, EXPERTS, TOP_K, LAYERS = 64, 16, 12, 2, 2


@dataclass(frozen=True)
class Made:
    """What a session generated."""

    traces: list[Trace]


class Session:
    """The model with a routing, generating text with traces."""

    def __init__(self, engine, routing, key_id, setting):
        self.engine, self.routing, self.key_id, self.setting = engine, routing, key_id, setting

    def generate(self, inputs, *, new_tokens, seed):
        """``new_tokens`` sampled tokens after each row of ``inputs``."""
        random, traces = np.random.default_rng(seed), []
        for row in inputs:
            tokens = list(row)
            for _ in range(new_tokens):
                logits, _ = self.engine.forward(np.array(tokens), self.routing)
                p = np.exp(logits[-1] - logits[-1].max())
                tokens.append(int(random.choice(VOCABULARY, p=p / p.sum())))
            _, ran = self.engine.forward(np.array(tokens[:-1]), self.routing)
            traces.append(
                Trace(
                    header=self.engine.header(self.key_id, self.setting),
                    token_ids=np.array(tokens, np.int32),
                    experts=np.stack(ran, 1).astype(np.int16),
                    prompt_length=len(row),
                )
            )
        return Made(traces)


class NumpyEngine:
    """The model of ``seed``."""

    name, dtype, encoder_decoder, vocabulary, positions = "TinyNumpyMoe", "float32", False, VOCABULARY, None

    def __init__(self, seed=0):
        random = np.random.default_rng(seed)
        draw = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
        self.embedding = draw(VOCABULARY, HIDDEN)
        self.routers = [draw(EXPERTS, HIDDEN) / 4 for _ in range(LAYERS)]
        self.experts = [draw(EXPERTS, HIDDEN, HIDDEN) / 4 for _ in range(LAYERS)]
        self.sites = [
            RouterSite(
                path=f"layers.{layer}.router", stack="decoder", layer=layer, router_class="NumpyRouter",
                num_experts=EXPERTS, top_k=TOP_K, hidden_size=HIDDEN, unit="logit", ranks="logits",
                calls=(), flat=True, keyable=True,
            )
            for layer in range(LAYERS)
        ]  # fmt: skip

    def forward(self, tokens, routing):
        """Logits [T, V], and the experts that ran, [T, k] a layer; ``routing(layer, logits, hidden, native)``."""
        states, ran = self.embedding[tokens], []
        for layer in range(LAYERS):
            seen = states.cumsum(-2) / np.arange(1, tokens.shape[-1] + 1, dtype=np.float32)[:, None]
            hidden = (seen / np.sqrt((seen**2).mean(-1, keepdims=True) + 1e-6)).reshape(-1, HIDDEN)
            logits = hidden @ self.routers[layer].T
            native = np.argsort(-logits, -1, kind="stable")[:, :TOP_K]
            chosen = np.sort(np.asarray(routing(layer, logits, hidden, native)), -1)
            weights = np.exp(np.take_along_axis(logits, chosen, -1))
            weights /= weights.sum(-1, keepdims=True)
            added = np.einsum("tk,tkde,td->te", weights, self.experts[layer][chosen], hidden)
            states = states + added.reshape(states.shape)
            ran.append(chosen)
        return states @ self.embedding.T / 4, ran

    def identity(self):
        """The class, the shapes, and a digest of the routers."""
        digest = [hashlib.sha256(part).hexdigest()[:16] for part in (b"numpy", np.stack(self.routers).tobytes())]
        return ModelIdentity(class_name=self.name, structure=digest[0], routers=digest[1])

    def header(self, key_id, setting):
        """What a trace says of itself."""
        fields = TraceSite.model_fields
        sites = tuple(TraceSite(**{name: getattr(site, name) for name in fields}) for site in self.sites)
        given = {} if setting is None else asdict(setting)
        return TraceHeader(model=self.identity(), sites=sites, dtype=self.dtype, key_id=key_id, **given)

    @contextmanager
    def keyed(self, key, setting):
        """The model under a key."""
        projections = [
            torch.from_numpy(
                key.projection(stack="decoder", layer=layer, hidden_size=HIDDEN, num_experts=EXPERTS)
            ).float()
            for layer in range(LAYERS)
        ]

        def routing(layer, logits, hidden, native):
            keys = key_scores(torch.from_numpy(hidden), projections[layer])
            return select(torch.from_numpy(logits), keys, top_k=TOP_K, **asdict(setting)).indices.numpy()

        yield Session(self, routing, key.id, setting)

    @contextmanager
    def recorded(self):
        """The model as it is."""
        yield Session(self, lambda layer, logits, hidden, native: native, None, None)

    def replay(self, trace, observe):
        """Forced routing; every site is shown once."""
        places = {site.path: place for place, site in enumerate(matching_sites(self, trace))}

        def routing(layer, logits, hidden, native):
            experts = trace.site_experts(places[self.sites[layer].path]).astype(np.int64)
            observe(self.sites[layer], *map(torch.from_numpy, (logits, hidden, experts)))
            return np.where(experts < 0, native, experts)

        self.forward(trace.token_ids[:-1], routing)

    @contextmanager
    def scoring(self, choosers):
        """log p of texts, every row routed by the choosers."""

        def routing(layer, logits, hidden, native):
            if choosers is None:
                return native
            shown = torch.from_numpy(native)
            chooser = choosers[layer]
            return chooser(torch.from_numpy(logits), torch.from_numpy(hidden), shown.__getitem__).numpy()

        def score(text, rows, temperature):
            tokens = np.broadcast_to(text.tokens[:-1].numpy(), (rows, len(text.tokens) - 1))
            logits = torch.from_numpy(self.forward(tokens, routing)[0]).double() / temperature
            log_p = logits[:, text.prompt_length - 1 :].log_softmax(-1)
            return log_p.gather(-1, text.tokens[None, text.prompt_length :, None].expand(rows, -1, 1))[..., 0]

        yield score
