"""ResTv2-T as anyone would write it down from the paper, formula by formula, without a thought for speed.

A yardstick for ours, never the product: `python -m bench compare restv2_tiny
bench.regression.transcription:ResTv2Tiny`. Section 3.2 (equation 2), appendix D (Table 9) and equation 5. It keeps
the names of the authors' parameters, so that one state dict fits both and a test can hold them equal.
"""

import math

import torch
from torch import nn


class PA(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.pa_conv = nn.Conv2d(c, c, kernel_size=3, padding=1, groups=c)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        return x * self.sigmoid(self.pa_conv(x))


class Embed(nn.Module):
    def __init__(self, proj, c):
        super().__init__()
        self.proj = proj
        self.pos = PA(c)
        self.norm = nn.LayerNorm(c, eps=1e-6)

    def forward(self, x):
        x = self.pos(self.proj(x))
        b, c, h, w = x.shape
        x = self.norm(x.permute(0, 2, 3, 1).reshape(b, h * w, c))
        return x, h, w


class Attention(nn.Module):
    def __init__(self, c, k, r):
        super().__init__()
        self.k, self.r = k, r
        self.q = nn.Linear(c, c)
        self.kv = nn.Linear(c, 2 * c)
        if r > 1:
            self.sr = nn.Conv2d(c, c, kernel_size=r + 1, stride=r, padding=r // 2, groups=c)
            self.sr_norm = nn.LayerNorm(c, eps=1e-6)
        self.up = nn.Sequential(
            nn.Conv2d(c, c * r * r, kernel_size=3, padding=1, groups=c),
            nn.PixelShuffle(r),
        )
        self.up_norm = nn.LayerNorm(c, eps=1e-6)
        self.proj = nn.Linear(c, c)

    def heads(self, x):
        b, n, c = x.shape
        return x.reshape(b, n, self.k, c // self.k).permute(0, 2, 1, 3)

    def forward(self, x, h, w):
        b, n, c = x.shape
        q = self.heads(self.q(x))
        if self.r > 1:
            x = x.permute(0, 2, 1).reshape(b, c, h, w)
            x = self.sr(x).reshape(b, c, -1).permute(0, 2, 1)
            x = self.sr_norm(x)
        keys, values = self.kv(x).split(c, dim=2)
        scores = torch.matmul(q, self.heads(keys).transpose(2, 3)) / math.sqrt(c // self.k)
        attended = torch.matmul(torch.softmax(scores, dim=-1), self.heads(values))
        attended = attended.permute(0, 2, 1, 3).reshape(b, n, c)
        up = self.up(values.permute(0, 2, 1).reshape(b, c, h // self.r, w // self.r))
        up = self.up_norm(up.reshape(b, c, n).permute(0, 2, 1))
        return self.proj(attended + up)


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1 = nn.Linear(c, 4 * c)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * c, c)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, c, k, r):
        super().__init__()
        self.norm1 = nn.LayerNorm(c, eps=1e-6)
        self.attn = Attention(c, k, r)
        self.norm2 = nn.LayerNorm(c, eps=1e-6)
        self.mlp = MLP(c)

    def forward(self, x, h, w):
        x = x + self.attn(self.norm1(x), h, w)
        return x + self.mlp(self.norm2(x))


class ResTv2Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        stem = nn.Sequential(
            nn.Conv2d(3, 48, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, 96, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.Conv2d(96, 96, kernel_size=1),
        )
        self.stem = Embed(stem, 96)
        for stage, c in ((2, 192), (3, 384), (4, 768)):
            conv = nn.Conv2d(c // 2, c, kernel_size=3, stride=2, padding=1)
            setattr(self, f"patch_{stage}", Embed(conv, c))
        for stage, c, k, r, depth in (
            (1, 96, 1, 8, 1),
            (2, 192, 2, 4, 2),
            (3, 384, 4, 2, 6),
            (4, 768, 8, 1, 2),
        ):
            setattr(self, f"stage{stage}", nn.ModuleList([Block(c, k, r) for _ in range(depth)]))
        self.norm = nn.LayerNorm(768, eps=1e-6)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(768, 1000)

    def forward(self, x):
        for stage in (1, 2, 3, 4):
            x, h, w = (self.stem if stage == 1 else getattr(self, f"patch_{stage}"))(x)
            for block in getattr(self, f"stage{stage}"):
                x = block(x, h, w)
            if stage < 4:
                x = x.permute(0, 2, 1).reshape(x.shape[0], -1, h, w)
        x = self.norm(x).permute(0, 2, 1).reshape(x.shape[0], 768, h, w)
        return self.head(self.avg_pool(x).flatten(1))
