"""Small networks, TorchScript archives of them, and damaged copies, all built on the spot."""

import io
import struct
import warnings
import zipfile

import torch
from torch import nn

from formats import Source
from formats.torchscript.manifest import read_manifest
from formats.torchscript.opener import open_file


class Cnn(nn.Module):
    """Normalisation, convolution, batch norm, dropout, linear."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1))

    def forward(self, x):
        x = torch.relu(self.norm(self.conv((x - self.mean) / 0.25)))
        return self.fc(nn.functional.dropout(x, 0.5, self.training).mean((2, 3)))


class Attention(nn.Module):
    """One self-attention over 4x4 patches, which torch fuses when traced without gradients."""

    def __init__(self):
        super().__init__()
        self.patch, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.attend(x, x, x, need_weights=False)[0]
        return self.fc(x.mean(1))


class Encoder(nn.Module):
    """A torch.nn encoder, which torch fuses into one operator when traced without gradients."""

    def __init__(self, first=False, activation="relu"):
        super().__init__()
        settings = {"dropout": 0.0, "batch_first": True, "norm_first": first, "activation": activation}
        layer = nn.TransformerEncoderLayer(8, 2, 16, **settings)
        self.patch, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.fc(self.layers(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class Fixed(nn.Module):
    """A trace of it takes batches of one size only."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 5)

    def forward(self, x):
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.conv(x)), 4)
        return self.fc(x.view(int(x.shape[0]), 64))


class Tied(nn.Module):
    """Two names of one weight, and a weight that is used in part."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 5)
        self.b.weight = self.a.weight
        self.wide = nn.Parameter(torch.empty(24, 12))

    def forward(self, x):
        x = torch.relu(self.a(x.mean((2, 3)).repeat(1, 4)))
        return self.fc(torch.relu(self.b(x) @ self.wide[:12]))


NETWORKS = {"cnn": Cnn, "attention": Attention, "encoder": Encoder, "fixed": Fixed, "tied": Tied}


def network(name, *settings):
    """A small network; every weight and statistic drawn, so that nothing is equal by accident."""
    made, generator = NETWORKS[name](*settings), torch.Generator().manual_seed(0)
    for key, value in made.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point() and not key.endswith("mean"):
            value.normal_(0, 0.3, generator=generator)
    return made.eval()


def as_bytes(scripted):
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted, stream)
    return stream.getvalue()


def archive(net, how, batch=2, size=16, dtype=torch.float32):
    """A TorchScript file; ``how``: traced, traced_fused (no gradients), scripted, frozen_traced, frozen_scripted."""
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    with warnings.catch_warnings(), torch.set_grad_enabled(how == "traced"):
        warnings.simplefilter("ignore")
        traced = "traced" in how
        scripted = torch.jit.trace(net, x, check_trace=False) if traced else torch.jit.script(net)
        return as_bytes(torch.jit.freeze(scripted) if how.startswith("frozen") else scripted)


def opened(data):
    """Source, manifest and what the opener makes of them."""
    source = Source("model.pt", data)
    manifest = read_manifest(source)
    return source, manifest, open_file(source, manifest)


def images(n=3, size=16):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(2))


def rezip(data, changes, deflate=(), zip64=False):
    """Packed anew by Python with ``changes``: member → bytes, or None to leave it out; right in all else."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: old.read(name) for name in old.namelist()} | changes
        for name, content in members.items():
            if content is None:
                continue
            info = zipfile.ZipInfo(name if name.startswith("/") else f"{root}/{name}")
            if name in deflate:
                info.compress_type = zipfile.ZIP_DEFLATED
            with new.open(info, "w", force_zip64=zip64) as member:
                member.write(content)
    return stream.getvalue()


def member(data, name):
    """The content of one member."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        return old.read(f"{old.namelist()[0].partition('/')[0]}/{name}")


def headers(data, name):
    """Offsets of the local header, the payload and the directory entry."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        info = next(i for i in old.infolist() if i.filename.endswith(f"/{name}"))
    n_name, n_extra = struct.unpack_from("<2H", data, info.header_offset + 26)
    raw, central = info.filename.encode(), data.rindex(b"PK\1\2")
    while data[central + 46 : central + 46 + len(raw)] != raw:
        central = data.rindex(b"PK\1\2", 0, central)
    return info.header_offset, info.header_offset + 30 + n_name + n_extra, central


def text(value):
    """Instructions of a pickle that make a string."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def tensor(
    key="0", count=6, offset=0, size=b"K\x02K\x03", stride=b"K\x03K\x01", kind="FloatStorage", device="cpu"
):
    """Instructions that make a float tensor of 2 x 3."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text(device)
    storage += b"J" + struct.pack("<i", count) + b"tQ"
    rest = b"K" + bytes([offset]) + b"(" + size + b"t(" + stride + b"t\x88ccollections\nOrderedDict\n)RtR"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest


def module(body, name="__torch__.Inner"):
    """Instructions that make an object of a class; ``body`` makes names and values of its attributes."""
    path, _, cls = name.rpartition(".")
    return f"c{path}\n{cls}\n".encode() + b")\x81}(" + body + b"ub"
