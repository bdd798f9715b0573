"""The peer of bench_layer: the same layer in plain PyTorch on the CPU, f32, eager, as a model file would write it.

Embedding of 4,096 words, one DeepSeek-V2-Lite MoE layer (MLA in expanded form, 64 routed experts top-6 in a loop with index_add, two
shared experts), final norm, head and cross-entropy; forward and backward, no optimiser.

    python torch_layer.py BxT [threads] [repeats] [float32|bfloat16]
"""
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, HIDDEN, HEADS, NOPE, ROPE, V_DIM, LATENT, EXPERT, EXPERTS, TOP_K = 4096, 2048, 16, 128, 64, 128, 512, 1408, 64, 6


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (x.float() * scale).to(x.dtype)


class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate = nn.Linear(HIDDEN, width, bias=False)
        self.up = nn.Linear(HIDDEN, width, bias=False)
        self.down = nn.Linear(width, HIDDEN, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(HIDDEN, HEADS * (NOPE + ROPE), bias=False)
        self.kv_a = nn.Linear(HIDDEN, LATENT + ROPE, bias=False)
        self.kv_norm = RMSNorm(LATENT)
        self.kv_b = nn.Linear(LATENT, HEADS * (NOPE + V_DIM), bias=False)
        self.out = nn.Linear(HEADS * V_DIM, HIDDEN, bias=False)

    @staticmethod
    def rotate(x, cos, sin):
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def forward(self, x, cos, sin, mask):
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, HEADS, NOPE + ROPE).transpose(1, 2)
        latent, k_rope = self.kv_a(x).split([LATENT, ROPE], -1)
        kv = self.kv_b(self.kv_norm(latent)).view(batch, length, HEADS, NOPE + V_DIM).transpose(1, 2)
        k_nope, v = kv.split([NOPE, V_DIM], -1)
        k_rope = self.rotate(k_rope.unsqueeze(1), cos, sin).expand(-1, HEADS, -1, -1)
        q = torch.cat((q[..., :NOPE], self.rotate(q[..., NOPE:], cos, sin)), -1)
        k = torch.cat((k_nope, k_rope), -1)
        scores = q @ k.transpose(2, 3) * (NOPE + ROPE) ** -0.5 + mask
        p = scores.float().softmax(-1).to(v.dtype)
        return self.out((p @ v).transpose(1, 2).reshape(batch, length, HEADS * V_DIM))


class MoE(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts = nn.ModuleList(MLP(EXPERT) for _ in range(EXPERTS))
        self.shared = MLP(2 * EXPERT)

    def forward(self, x):
        flat = x.reshape(-1, HIDDEN)
        weights, chosen = F.linear(flat.float(), self.router.weight.float()).softmax(-1).topk(TOP_K, -1)
        routed = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == e)
            if token.numel() > 0:
                routed.index_add_(0, token, (expert(flat[token]) * weights[token, slot, None]).to(flat.dtype))
        return (routed + self.shared(flat)).view_as(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        self.norm_attention, self.norm_moe, self.norm_final = RMSNorm(HIDDEN), RMSNorm(HIDDEN), RMSNorm(HIDDEN)
        self.attention, self.moe = Attention(), MoE()
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(self, ids, targets, cos, sin, mask):
        x = self.embedding(ids)
        x = x + self.attention(self.norm_attention(x), cos, sin, mask)
        x = x + self.moe(self.norm_moe(x))
        return F.cross_entropy(self.head(self.norm_final(x)).float().flatten(0, 1), targets.flatten())


def main():
    batch, length = (int(n) for n in sys.argv[1].split("x"))
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    repeats = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    dtype = getattr(torch, sys.argv[4]) if len(sys.argv) > 4 else torch.float32
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Model().to(dtype)
    angle = torch.arange(length)[:, None] * (10000.0 ** (-torch.arange(0, ROPE, 2) / ROPE))[None]
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    mask = torch.full((length, length), float("-inf")).triu(1).to(dtype)
    ids, targets = torch.randint(VOCAB, (batch, length)), torch.randint(VOCAB, (batch, length))
    best = float("inf")
    for i in range(repeats + 1):
        model.zero_grad(set_to_none=True)
        begin = time.perf_counter()
        model(ids, targets, cos, sin, mask).backward()
        if i > 0:
            best = min(best, time.perf_counter() - begin)
    print(f"{batch}x{length} torch {torch.__version__} {sys.argv[4] if len(sys.argv) > 4 else 'float32'} threads {threads}: "
          f"{best * 1e3:.1f} ms, {batch * length / best:.1f} tokens/s")


if __name__ == "__main__":
    main()
