"""Modules as strangers bring them, one callable each: what a source refers to by MODULE:NAME."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Of(nn.Module):  # type: ignore[misc]
    """forward is the function given; its arguments are called as the function's."""

    def __init__(self, function: Any, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.__dict__["forward"] = function.__get__(self)


def of(function: Any, *example: Any, **parts: Any) -> tuple[nn.Module, Any]:
    return Of(function, **parts), example


# ---- what must come out exactly ---------------------------------------------------------------------------


def conv() -> Any:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return net, torch.randn(2, 3, 16, 16)


def group_norm() -> Any:
    return nn.Sequential(nn.Conv2d(4, 8, 1), nn.GroupNorm(2, 8)), torch.randn(1, 4, 6, 6)


def lstm_batch_first() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return self.rnn(x)[0]

    return of(
        forward, torch.randn(2, 5, 4), rnn=nn.LSTM(4, 6, batch_first=True, num_layers=2, bidirectional=True)
    )


def lstm_states() -> Any:
    return nn.LSTM(4, 6, batch_first=True), (torch.randn(2, 5, 4),)


def gru_time_major() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return self.rnn(x.transpose(0, 1))[0].transpose(0, 1)

    return of(forward, torch.randn(2, 5, 4), rnn=nn.GRU(4, 6))


def transformer() -> Any:
    def forward(self: Any, x: Any, mask: Any) -> Any:
        return self.encoder(x, src_key_padding_mask=mask)

    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 3:] = True
    return of(forward, torch.randn(2, 5, 8), mask, encoder=nn.TransformerEncoder(layer, 2))


def attention() -> Any:
    def forward(self: Any, q: Any, k: Any, v: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return of(forward, *(torch.randn(2, 2, 5, 4) for _ in range(3)))


def mixture_of_experts() -> Any:
    def forward(self: Any, x: Any) -> Any:
        weights, chosen = torch.topk(torch.softmax(self.gate(x), -1), 2, dim=-1)
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        picked = torch.gather(answers, 1, chosen[:, :, None].expand(-1, -1, answers.shape[-1]))
        return (picked * weights[:, :, None]).sum(1)

    return of(
        forward,
        torch.randn(2, 4),
        gate=nn.Linear(4, 3),
        experts=nn.ModuleList(nn.Linear(4, 5) for _ in range(3)),
    )


def interpolate() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    return of(forward, torch.randn(2, 3, 5, 5))


def einsum() -> Any:
    return of(
        lambda self, x: torch.einsum("bij,jk->bik", x, self.w), torch.randn(2, 3, 4), w=torch.randn(4, 5)
    )


def embedding_bag() -> Any:
    return nn.EmbeddingBag(20, 6, mode="mean"), torch.randint(0, 20, (2, 5))


def old_weight_norm() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(4, 3)), torch.randn(2, 4)


def weight_norm() -> Any:
    return nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 3, 3)), torch.randn(2, 4, 9)


def spectral_norm() -> Any:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), torch.randn(2, 4)


def scatter() -> Any:
    def forward(self: Any, x: Any, index: Any) -> Any:
        return torch.zeros_like(x).scatter_add(1, index, x)

    return of(forward, torch.randn(2, 4), torch.randint(0, 4, (2, 4)))


def cumsum() -> Any:
    return of(lambda self, x: x.cumsum(1).flip(1), torch.randn(2, 4))


def masked_fill() -> Any:
    def forward(self: Any, x: Any) -> Any:
        x = x.clone()
        x[x < 0] = 0.5
        return x.masked_fill(x > 1, -1.0)

    return of(forward, torch.randn(2, 4))


def sort_topk() -> Any:
    def forward(self: Any, x: Any) -> Any:
        values, order = x.sort(1, descending=True)
        return {"values": values, "order": order, "top": x.topk(2, 1).values, "best": x.argmax(1)}

    return of(forward, torch.randn(2, 6))


def cond() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return torch.cond(x.sum() > 0, lambda x: x * 2.0, lambda x: x - 1.0, (x,))

    return of(forward, torch.randn(2, 4))


def while_loop() -> Any:
    def forward(self: Any, x: Any) -> Any:
        from torch._higher_order_ops.while_loop import while_loop as loop

        start = torch.zeros((), dtype=torch.int64)
        return loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 1.5), (start, x))[1]

    return of(forward, torch.randn(2, 4))


def scan() -> Any:
    def forward(self: Any, x: Any) -> Any:
        from torch._higher_order_ops.scan import scan as scanned

        _, y = scanned(lambda c, v: (c + v, (c + v) * 1.0), torch.zeros(x.shape[0], 4), x, dim=1)
        return y

    return of(forward, torch.randn(2, 5, 4))


def while_true_python() -> Any:
    def forward(self: Any, x: Any) -> Any:
        n = 0
        while n < 3:
            x, n = torch.tanh(x), n + 1
        return x

    return of(forward, torch.randn(2, 4))


def tied() -> Any:
    class Tied(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids: Any) -> Any:
            return self.head(self.words(ids))

    return Tied(), torch.randint(0, 10, (2, 3))


def in_train_mode() -> Any:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    net.train()
    return net, torch.randn(2, 4)


def returns_its_input() -> Any:
    return of(lambda self, x: x, torch.randn(2, 4))


def returns_twice_the_same() -> Any:
    def forward(self: Any, x: Any) -> Any:
        y = x * 2
        return y, y, x

    return of(forward, torch.randn(2, 4))


def returns_a_parameter() -> Any:
    return of(lambda self, x: (x * 2, self.w.expand(x.shape[0], -1)), torch.randn(2, 4), w=torch.randn(1, 3))


def keyword_only() -> Any:
    class Net(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any, *, scale: Any, shift: Any = None) -> Any:
            return x * scale if shift is None else x * scale + shift

    return Net(), {"x": torch.randn(2, 4), "scale": torch.randn(2, 1)}


def optional_none_between() -> Any:
    class Net(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any, mask: Any = None, y: Any = None) -> Any:
            return x + y if mask is None else x + y * mask

    return Net(), (torch.randn(2, 4), None, torch.randn(2, 4))


def list_of_tensors() -> Any:
    return of(lambda self, xs: torch.cat(xs, 1) * 2, [torch.randn(2, 4), torch.randn(2, 3)])


def dict_input() -> Any:
    return of(lambda self, batch: batch["a"] - batch["b"], {"a": torch.randn(2, 4), "b": torch.randn(2, 4)})


class Pair(NamedTuple):
    first: Any
    second: Any


def named_tuple() -> Any:
    return of(lambda self, x: Pair(x * 2, Pair(x + 1, x.relu())), torch.randn(2, 4))


@dataclass
class Answer:
    """An output like those of transformers."""

    logits: Any
    hidden_states: Any = None
    past_key_values: Any = None


def dataclass_output() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return Answer(x * 2, (x + 1, x + 2), ((x * 3, x * 4), (x * 5, x * 6)))

    return of(forward, torch.randn(2, 4))


def nested_dicts() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return {
            "boxes": {"left": x * 2, "right": x * 3},
            "scores": [x.sum(1), None],
            "extra": {"left": x + 1},
        }

    return of(forward, torch.randn(2, 4))


class Layer:
    """Of a cache of keys and values, as transformers has them."""

    def __init__(self, keys: Any, values: Any) -> None:
        self.keys, self.values = keys, values


class Cache:
    """A class of its own that torch knows nothing of; forward changes it in place."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = list(layers)

    def update(self, key: Any, value: Any, layer: int) -> Any:
        kept = self.layers[layer]
        kept.keys, kept.values = torch.cat([kept.keys, key], 1), torch.cat([kept.values, value], 1)
        return kept.keys


class OldCache:
    """The same before layers were objects."""

    def __init__(self, keys: list[Any], values: list[Any]) -> None:
        self.key_cache, self.value_cache = keys, values

    def update(self, key: Any, value: Any, layer: int) -> Any:
        self.key_cache[layer] = torch.cat([self.key_cache[layer], key], 1)
        self.value_cache[layer] = torch.cat([self.value_cache[layer], value], 1)
        return self.key_cache[layer]


class Decoder(nn.Module):  # type: ignore[misc]
    """x [batch, new, 4], a mask over all [batch, total] and a cache of past steps → logits and the cache."""

    def forward(self, x: Any, mask: Any, cache: Any, use_cache: bool = True) -> Any:
        kept = cache.update(x * 2, x * 3, 0)
        logits = (kept * mask[:, :, None]).sum(1) + x.sum(1)
        return Answer(logits, past_key_values=cache if use_cache else None)


def cache() -> Any:
    past = Cache(Layer(torch.randn(2, 3, 4), torch.randn(2, 3, 4)))
    return Decoder(), {"x": torch.randn(2, 2, 4), "mask": torch.ones(2, 5), "cache": past, "use_cache": True}


def old_cache() -> Any:
    past = OldCache([torch.randn(2, 3, 4)], [torch.randn(2, 3, 4)])
    return Decoder(), (torch.randn(2, 2, 4), torch.ones(2, 5), past)


def input_names_collide() -> Any:
    """Inputs and outputs called as values inside a graph are."""

    def forward(self: Any, mul: Any, add: Any, val_0: Any) -> Any:
        return {"add_1": mul * 2 + add, "mul_1": add * mul, "linear": val_0 - 1, "x": mul - val_0}

    return of(forward, torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4))


def output_like_input() -> Any:
    return of(lambda self, x: {"x": x * 2, "y": x + 1}, torch.randn(2, 4))


def output_like_weight() -> Any:
    def forward(self: Any, weight: Any) -> Any:
        return {"linear.weight": self.linear(weight), "linear.bias": weight + 1}

    return of(forward, torch.randn(2, 4), linear=nn.Linear(4, 4))


def past_and_new() -> Any:
    """total = past + new"""

    def forward(self: Any, past: Any, new: Any, mask: Any) -> Any:
        every = torch.cat([past, new], 1)
        return every * mask[:, :, None]

    return of(forward, torch.randn(2, 3, 4), torch.randn(2, 2, 4), torch.ones(2, 5))


def n_and_one_more() -> Any:
    return of(lambda self, x, y: F.pad(x, (0, 1)) + y, torch.randn(2, 4), torch.randn(2, 5))


def twice() -> Any:
    return of(lambda self, x, y: torch.cat([x, x], 1) + y, torch.randn(2, 4), torch.randn(2, 8))


def half_weights() -> Any:
    return of(lambda self, x: x @ self.w.float(), torch.randn(2, 4), w=torch.randn(4, 3).half())


def double() -> Any:
    return nn.Linear(4, 3).double(), torch.randn(2, 4, dtype=torch.float64)


def custom_function() -> Any:
    class Twice(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2

    return of(lambda self, x: Twice.apply(x), torch.randn(2, 4))


def in_place_on_input() -> Any:
    def forward(self: Any, x: Any) -> Any:
        x += 1
        return x * 2

    return of(forward, torch.randn(2, 4))


def requires_grad() -> Any:
    return of(lambda self, x: x * 2, torch.randn(2, 4, requires_grad=True))


def custom_attention_loop() -> Any:
    def forward(self: Any, x: Any) -> Any:
        out = []
        for i in range(x.shape[1]):
            out.append(x[:, i] * (i + 1))
        return torch.stack(out, 1)

    return of(forward, torch.randn(2, 5, 4))


def fft_magnitude() -> Any:
    return of(lambda self, x: torch.fft.rfft(x).abs(), torch.randn(2, 16))


def stft() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return torch.stft(x, 16, hop_length=8, window=self.w, return_complex=True).abs()

    return of(forward, torch.randn(2, 64), w=torch.hann_window(16))


def grid_sample() -> Any:
    return of(
        lambda self, x, g: F.grid_sample(x, g, align_corners=False),
        torch.randn(2, 3, 5, 5),
        torch.rand(2, 4, 4, 2),
    )


def pixel_shuffle() -> Any:
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)), torch.randn(1, 3, 6, 6)


def scripted_part() -> Any:
    @torch.jit.script
    def shifted(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    return of(lambda self, x: shifted(x) * 2, torch.randn(2, 4))


def integer_math() -> Any:
    return of(lambda self, x: (x // 3, x % 3, x >> 1), torch.randint(-9, 9, (2, 4)))


# ---- what must be refused, with its own reason --------------------------------------------------------------


def dropout_in_eval() -> Any:
    return of(lambda self, x: F.dropout(x, 0.5, training=True), torch.randn(2, 4))


def vae() -> Any:
    def forward(self: Any, x: Any) -> Any:
        mean, spread = self.encode(x).chunk(2, 1)
        return self.decode(mean + torch.randn_like(mean) * spread.exp())

    return of(forward, torch.randn(2, 4), encode=nn.Linear(4, 6), decode=nn.Linear(3, 4))


def baked_view() -> Any:
    return of(lambda self, x: x.view(2, -1) * 2, torch.randn(2, 4, 3))


def baked_expand() -> Any:
    return of(lambda self, x: x + self.b.expand(2, 4), torch.randn(2, 4), b=torch.randn(1, 4))


def branch_on_values() -> Any:
    def forward(self: Any, x: Any) -> Any:
        if x.sum() > 0:
            return x * 2
        return x - 1

    return of(forward, torch.randn(2, 4))


def item() -> Any:
    return of(lambda self, x: x * float(x.max().item()), torch.randn(2, 4))


def nonzero() -> Any:
    return of(lambda self, x: torch.nonzero(x > 0), torch.randn(2, 4))


def detection() -> Any:
    def forward(self: Any, boxes: Any, scores: Any) -> Any:
        keep = (scores > 0.5).nonzero().squeeze(1)
        return {"boxes": boxes[keep], "scores": scores[keep]}

    return of(forward, torch.randn(6, 4), torch.rand(6))


def numpy_inside() -> Any:
    return of(lambda self, x: torch.from_numpy(x.numpy() * 2), torch.randn(2, 4))


def packed() -> Any:
    def forward(self: Any, x: Any, lengths: Any) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=5)[0]

    return of(forward, torch.randn(2, 5, 4), torch.tensor([5, 3]), rnn=nn.LSTM(4, 6, batch_first=True))


def counts() -> Any:
    def forward(self: Any, x: Any) -> Any:
        self.n += 1
        return x * self.n

    return of(forward, torch.randn(2, 4), n=torch.zeros(()))


def counts_in_python() -> Any:
    def forward(self: Any, x: Any) -> Any:
        self.n += 1
        return x * self.n

    return of(forward, torch.randn(2, 4), n=0)


def running_mean() -> Any:
    def forward(self: Any, x: Any) -> Any:
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return x - self.mean

    return of(forward, torch.randn(2, 4), mean=torch.zeros(4))


def returns_a_float() -> Any:
    return of(lambda self, x: (x * 2, 0.5), torch.randn(2, 4))


def returns_a_string() -> Any:
    return of(lambda self, x: {"y": x * 2, "kind": "cat"}, torch.randn(2, 4))


def returns_nothing() -> Any:
    return of(lambda self, x: None, torch.randn(2, 4))


def complex_output() -> Any:
    return of(lambda self, x: torch.fft.rfft(x), torch.randn(2, 16))


def complex_input() -> Any:
    return of(lambda self, x: x.abs(), torch.randn(2, 4, dtype=torch.complex64))


def svd() -> Any:
    return of(lambda self, x: torch.linalg.svd(x)[1], torch.randn(2, 3, 3))


def quantised() -> Any:
    net = nn.Sequential(nn.Linear(4, 3))
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8), torch.randn(2, 4)


def other_device() -> Any:
    net, example = of(lambda self, x: x + self.table.to("meta"), torch.randn(2, 4), table=torch.zeros(4))
    return net, example


def on_meta() -> Any:
    return of(lambda self, x: self.linear(x), torch.randn(2, 4), linear=nn.Linear(4, 3, device="meta"))


def a_number_as_input() -> Any:
    return of(lambda self, x, k: x * k, torch.randn(2, 4), 3)


def sparse_input() -> Any:
    return of(lambda self, x: x.to_dense() * 2, torch.eye(4).to_sparse())


def in_place_on_leaf() -> Any:
    def forward(self: Any, x: Any) -> Any:
        self.w.add_(1)
        return x * self.w

    return of(forward, torch.randn(2, 4), w=nn.Parameter(torch.randn(4)))


def unique() -> Any:
    return of(lambda self, x: torch.unique(x), torch.randint(0, 4, (2, 4)))


def inverse() -> Any:
    return of(lambda self, x: torch.linalg.inv(x), torch.randn(2, 3, 3))


def roll_by_value() -> Any:
    return of(lambda self, x: x[: int(x[0, 0].abs()) + 1], torch.randn(2, 4))


# ---- stranger still ---------------------------------------------------------------------------------------------


def one_tensor_thrice() -> Any:
    x = torch.randn(2, 5, 4)
    return of(lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v), x, x, x)


def multihead() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return self.attention(x, x, x)

    return of(forward, torch.randn(2, 5, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True))


def compiled() -> Any:
    return torch.compile(nn.Linear(4, 3)), torch.randn(2, 4)


def data_parallel() -> Any:
    return nn.DataParallel(nn.Linear(4, 3)), torch.randn(2, 4)


def energy_and_forces() -> Any:
    def forward(self: Any, x: Any) -> Any:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            energy = (self.net(x) ** 2).sum()
            return torch.autograd.grad(energy, x)[0]

    return of(forward, torch.randn(2, 4), net=nn.Linear(4, 3))


def remembers_its_inputs() -> Any:
    def forward(self: Any, x: Any) -> Any:
        self.seen.append(x)
        return x * 2

    net, example = of(forward, torch.randn(2, 4))
    net.seen = []
    return net, example


def prints() -> Any:
    def forward(self: Any, x: Any) -> Any:
        print("shape", x.shape)
        return x * 2

    return of(forward, torch.randn(2, 4))


def numpy_noise() -> Any:
    def forward(self: Any, x: Any) -> Any:
        import random

        return x * random.random()

    return of(forward, torch.randn(2, 4))


def vmapped() -> Any:
    return of(lambda self, x: torch.vmap(lambda row: row.softmax(0) * 2)(x), torch.randn(2, 4))


def positions() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return x + torch.arange(x.shape[1], dtype=x.dtype)[None, :, None]

    return of(forward, torch.randn(2, 5, 4))


def rotary_cached() -> Any:
    def forward(self: Any, x: Any) -> Any:
        if self.table is None or self.table.shape[0] < x.shape[1]:
            self.table = torch.arange(x.shape[1] * 2).float()
        return x * self.table[: x.shape[1]][None, :, None]

    return of(forward, torch.randn(2, 5, 4), table=None)


def slow_average() -> Any:
    """A state so slow that two runs look alike."""

    def forward(self: Any, x: Any) -> Any:
        self.mean.mul_(0.99999).add_(x.mean(0), alpha=0.00001)
        return x - self.mean

    return of(forward, torch.randn(2, 4), mean=torch.zeros(4))


def counts_calls_only() -> Any:
    """A state that no answer depends on."""

    def forward(self: Any, x: Any) -> Any:
        self.calls += 1
        return x * 2

    return of(forward, torch.randn(2, 4), calls=torch.zeros((), dtype=torch.int64))


def scratch_buffer() -> Any:
    """A buffer that is written whole before it is read."""

    def forward(self: Any, x: Any) -> Any:
        self.scratch.copy_(x.sum(0))
        return x + self.scratch

    return of(forward, torch.randn(2, 4), scratch=torch.zeros(4))


def custom_operator() -> Any:
    name = "tritonsmith_tests::doubled"
    if not hasattr(torch.ops.tritonsmith_tests, "doubled"):
        made = torch.library.custom_op(name, lambda x: x * 2, mutates_args=(), schema="(Tensor x) -> Tensor")
        made.register_fake(lambda x: torch.empty_like(x))
    return of(lambda self, x: torch.ops.tritonsmith_tests.doubled(x), torch.randn(2, 4))


def scalar_output() -> Any:
    return of(lambda self, x: {"y": x * 2, "loss": x.sum()}, torch.randn(2, 4))


def strange_keys() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return {"": x * 2, "a\nb": x * 3, 7: x * 4, "a b": x * 5, "å": x * 6}

    return of(forward, torch.randn(2, 4))


def keys_that_meet() -> Any:
    return of(lambda self, x: {"a.b": x * 2, "a": {"b": x * 3}, "x": {"": x * 4}}, torch.randn(2, 4))


def returns_structseq() -> Any:
    return of(lambda self, x: x.max(1), torch.randn(2, 4))


def size_decides() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return x * 2.0 if x.shape[1] > 6 else x - 1.0

    return of(forward, torch.randn(2, 5, 4))


def size_decides_below() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return x * 2.0 if x.shape[1] < 8 else x - 1.0

    return of(forward, torch.randn(2, 16, 4))


def bidirectional_over_time() -> Any:
    def forward(self: Any, x: Any) -> Any:
        return self.rnn(x)[0]

    return of(forward, torch.randn(2, 5, 4), rnn=nn.LSTM(4, 3, batch_first=True, bidirectional=True))


def down_and_up() -> Any:
    net = nn.Sequential(nn.Conv2d(1, 2, 4, stride=4), nn.ConvTranspose2d(2, 1, 4, stride=4))
    return of(lambda self, x: x + self.net(x), torch.randn(2, 1, 32, 32), net=net)


def added() -> Any:
    return of(lambda self, a, b: a + b, torch.randn(2, 5), torch.randn(2, 5))


def halved() -> Any:
    return of(lambda self, a, b: F.avg_pool1d(a, 2) + b, torch.randn(2, 1, 9), torch.randn(2, 1, 4))


def two_heads() -> Any:
    """One of them has no form in ONNX."""

    def forward(self: Any, x: Any) -> Any:
        return {"scores": self.head(x).mean(1), "spectrum": torch.linalg.svd(x)[1], "kind": "cat"}

    return of(forward, torch.randn(2, 3, 3), head=nn.Linear(3, 5))


def two_towers() -> Any:
    """An output whose weights are far larger than the other's."""
    net = {"small": nn.Linear(4, 2), "large": nn.Linear(4, 500)}
    return of(lambda self, x: {"a": self.small(x), "b": self.large(x)}, torch.randn(2, 4), **net)
