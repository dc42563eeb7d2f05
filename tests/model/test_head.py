"""The head against the reference formula written out: feature repeated, grouped convolutions, all classes."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from atlas.errors import SpecError
from atlas.model import dynamic
from atlas.model.head import RARE, UniversalHead, scatter

DEEP, DECODER, EMBEDDING = 32, 16, 12
SHAPE = (5, 6, 7)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def reference(head, deep, decoder, embeddings):
    """(B, K, D, H, W) by the published formula, with a head's parameters and none of its code."""
    p = dict(head.named_parameters())
    groups, classes = head.shared[0].num_groups, len(embeddings)
    text = F.relu(F.linear(embeddings, p["text.weight"], p["text.bias"]))
    image = F.relu(F.group_norm(deep, groups, p["image.0.weight"], p["image.0.bias"])).mean((2, 3, 4), keepdim=True)
    image = F.conv3d(image, p["image.3.weight"], p["image.3.bias"])
    shared = F.relu(F.group_norm(decoder, groups, p["shared.0.weight"], p["shared.0.bias"]))
    shared = F.conv3d(shared, p["shared.2.weight"], p["shared.2.bias"])
    found = []
    for b in range(len(deep)):
        both = torch.cat([image[b : b + 1].expand(classes, -1, -1, -1, -1), text[:, :, None, None, None]], 1)
        numbers = F.conv3d(both, p["controller.weight"], p["controller.bias"]).flatten(1)
        w1, w2 = numbers[:, :64].reshape(-1, 8, 1, 1, 1), numbers[:, 64:128].reshape(-1, 8, 1, 1, 1)
        w3 = numbers[:, 128:136].reshape(-1, 8, 1, 1, 1)
        b1, b2, b3 = (numbers[:, s].reshape(-1) for s in (slice(136, 144), slice(144, 152), slice(152, 153)))
        x = shared[b : b + 1].repeat(1, classes, 1, 1, 1)
        x = F.relu(F.conv3d(x, w1, b1, groups=classes))
        x = F.relu(F.conv3d(x, w2, b2, groups=classes))
        found.append(F.conv3d(x, w3, b3, groups=classes))
    return torch.cat(found)


def setting(seed=0, batch=2, classes=11, shape=SHAPE, dtype=torch.float32, device="cpu"):
    """A head whose normalisations are not the identity, and its inputs."""
    torch.manual_seed(seed)
    head = UniversalHead(DEEP, DECODER, EMBEDDING, groups=8)
    for norm in (head.image[0], head.shared[0]):
        torch.nn.init.normal_(norm.weight, 1, 0.3)
        torch.nn.init.normal_(norm.bias, 0, 0.3)
    torch.nn.init.normal_(head.controller.bias, 0, 0.3)
    torch.nn.init.normal_(head.controller.weight, 0, 0.1)
    deep, decoder = torch.randn(batch, DEEP, 2, 3, 2), torch.randn(batch, DECODER, *shape)
    inputs = [x.to(device, dtype).requires_grad_() for x in (deep, decoder, torch.randn(classes, EMBEDDING))]
    return head.to(device, dtype), inputs


def gradients(head, inputs, loss):
    named = dict(head.named_parameters()) | dict(zip(("deep", "decoder", "embeddings"), inputs, strict=True))
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def small_blocks(monkeypatch, voxels=64, classes=4):
    """Blocks and groups that divide neither voxels nor classes."""
    monkeypatch.setattr(dynamic, "BLOCK", {"cpu": voxels, "cuda": voxels})
    monkeypatch.setattr(dynamic, "CLASSES", classes)


def compare(head, inputs, available, tolerance=1e-5):
    """Logits and every gradient of a random linear loss on the wanted pairs, relative to the largest of each."""
    deep, decoder, embeddings = inputs
    expected = reference(head, *inputs)
    mask = torch.ones(expected.shape[:2], dtype=torch.bool) if available is None else available.cpu()
    found = head(deep, decoder, embeddings, available)
    assert found.pairs.tolist() == [[b, k] for b in range(len(mask)) for k in range(mask.shape[1]) if mask[b, k]]
    wanted = expected[found.pairs[:, 0], found.pairs[:, 1]]
    weights = torch.randn(wanted.shape, dtype=wanted.dtype).to(wanted.device)
    close(found.logits, wanted, tolerance, "logits")
    ours = gradients(head, inputs, (found.logits * weights).sum())
    plain = gradients(head, inputs, (wanted * weights).sum())
    for name in plain:
        assert plain[name] is not None
        close(ours[name], plain[name], tolerance, name)


def close(found, expected, tolerance, name):
    assert found.shape == expected.shape, name
    if expected.numel():
        assert (found - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1), name


@pytest.mark.parametrize("wanted", ["all", "some", "one", "not every sample"])
@pytest.mark.parametrize("whole", [True, False])
def test_equals_the_reference_formula(monkeypatch, wanted, whole):
    if not whole:
        small_blocks(monkeypatch)
    head, inputs = setting()
    available = torch.zeros(2, 11, dtype=torch.bool)
    if wanted == "some":
        available[0, [0, 3, 4, 7, 9, 10]] = available[1, [2, 3]] = True
    available[1, 5] = wanted in ("one", "not every sample")
    available[1, 1] |= wanted == "not every sample"
    compare(head, inputs, None if wanted == "all" else available)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (3, 2, 17), (16, 1, 8)])
def test_any_shape_equals_the_reference_formula(monkeypatch, shape):
    small_blocks(monkeypatch)
    # double precision: the normalisation of a volume of few voxels divides by what is nearly nothing
    compare(*setting(seed=1, batch=3, classes=5, shape=shape, dtype=torch.float64), None, tolerance=1e-10)


def strided(x, layout):
    if layout == "channels_last":
        return x.detach().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    return x.detach().transpose(2, 4).contiguous().transpose(2, 4).requires_grad_()


@pytest.mark.parametrize("layout", ["channels_last", "transposed"])
def test_layout_of_memory_does_not_matter(monkeypatch, layout):
    small_blocks(monkeypatch)
    head, (deep, decoder, embeddings) = setting(seed=2)
    inputs = [strided(deep, layout), strided(decoder, layout), embeddings.detach().mT.contiguous().mT.requires_grad_()]
    assert not inputs[1].is_contiguous()
    compare(head, inputs, None)
    found, plain = head(*inputs), head(deep, decoder, embeddings)
    close(found.logits, plain.logits, 1e-5, layout)


def test_a_transposed_gradient_and_a_sliced_feature(monkeypatch):
    small_blocks(monkeypatch)
    torch.manual_seed(0)
    wide = torch.randn(2, 200, 12, requires_grad=True)
    numbers = torch.randn(5, 153, requires_grad=True)
    weights = torch.randn(200, 5)
    logits = dynamic.dynamic_layers(wide.mT[:, 2:10], numbers, (3, 2))
    ours = torch.autograd.grad((logits.mT * weights).sum(), (wide, numbers))
    copied = wide.detach().mT[:, 2:10].contiguous().requires_grad_()
    logits = dynamic.dynamic_layers(copied, numbers, (3, 2))
    plain = torch.autograd.grad((logits * weights.mT.contiguous()).sum(), (copied, numbers))
    assert torch.allclose(ours[0][:, :, 2:10], plain[0].mT, atol=1e-5)
    assert not ours[0][:, :, :2].any()
    assert torch.allclose(ours[1], plain[1], atol=1e-4)


def test_gradient_by_finite_differences(monkeypatch):
    small_blocks(monkeypatch, voxels=4, classes=2)
    torch.manual_seed(3)
    shared = torch.randn(3, 8, 7, dtype=torch.float64, requires_grad=True)
    numbers = torch.randn(5, 153, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, n: dynamic.dynamic_layers(s, n, (3, 0, 2)), (shared, numbers))


def test_gradient_of_the_whole_head_by_finite_differences(monkeypatch):
    small_blocks(monkeypatch, voxels=4, classes=2)
    head, inputs = setting(batch=2, classes=3, shape=(2, 1, 3), dtype=torch.float64)
    available = torch.tensor([[True, False, True], [False, True, False]])
    assert torch.autograd.gradcheck(lambda *x: head(*x, available).logits, inputs, fast_mode=True)


def test_no_wanted_pair_gives_zero_gradients():
    head, inputs = setting()
    found = head(*inputs, torch.zeros(2, 11, dtype=torch.bool))
    assert found.logits.shape == (0, *SHAPE)
    assert found.pairs.shape == (0, 2)
    for name, gradient in gradients(head, inputs, found.logits.sum()).items():
        assert gradient is not None, name  # a rank whose batch has no label must still take part in the reduction
        assert not gradient.any(), name


def test_a_class_that_is_not_wanted_gets_no_gradient():
    head, inputs = setting()
    available = torch.ones(2, 11, dtype=torch.bool)
    available[:, 4] = False
    available[1] = False
    found = gradients(head, inputs, head(*inputs, available).logits.square().sum())
    assert not found["embeddings"][4].any()
    assert found["embeddings"][3].any()
    assert not found["decoder"][1].any()
    assert not found["deep"][1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_with_the_backbones_type(monkeypatch, dtype):
    """Exact for the given features: only what a backbone hands over may be rounded, and its gradient."""
    small_blocks(monkeypatch)
    head, (deep, decoder, embeddings) = setting()
    rounded = [x.detach().to(dtype).requires_grad_() for x in (deep, decoder)]
    exact = [x.detach().float().requires_grad_() for x in rounded]
    plain = reference(head, *exact, embeddings)
    expected = gradients(head, [*exact, embeddings], plain.square().mean())
    with torch.autocast("cpu", torch.bfloat16):
        found = head(*rounded, embeddings).logits
    ours = gradients(head, [*rounded, embeddings], found.square().mean())
    assert found.dtype == torch.float32
    close(found, plain.flatten(0, 1), 1e-5, "logits")
    for name in expected:
        error = (ours[name].float() - expected[name]).norm() / expected[name].norm()
        assert error < (0.01 if ours[name].dtype == torch.bfloat16 else 1e-4), name


def test_a_half_precision_feature_is_summed_in_single_precision(monkeypatch):
    """As exact as float32 on the rounded feature, in and out of autocast."""
    small_blocks(monkeypatch)
    torch.manual_seed(0)
    shared = torch.randn(2, 8, 300).bfloat16().requires_grad_()
    numbers, weights = torch.randn(5, 153, requires_grad=True), torch.randn(5, 300)
    exact = shared.detach().float().requires_grad_()
    expected = dynamic.dynamic_layers(exact, numbers, (3, 2))
    of_shared, of_numbers = torch.autograd.grad((expected * weights).sum(), (exact, numbers))
    with torch.autocast("cpu", torch.bfloat16):
        found = dynamic.dynamic_layers(shared, numbers, (3, 2))
        ours = torch.autograd.grad((found * weights).sum(), (shared, numbers))
    assert torch.equal(found, expected)
    assert ours[0].dtype == torch.bfloat16
    assert torch.equal(ours[0], of_shared.bfloat16())
    assert torch.equal(ours[1], of_numbers)


def test_nothing_between_the_layers_is_kept():
    head, (deep, decoder, embeddings) = setting(classes=64, shape=(12, 13, 14))
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        head(deep, decoder, embeddings)
    voxels = decoder[0, 0].numel()
    assert max(x.numel() for x in kept) <= len(decoder) * DECODER * voxels


@pytest.mark.parametrize("batch", [1, 2])
def test_scatter(batch):
    head, inputs = setting(batch=batch)
    available = torch.zeros(batch, 11, dtype=torch.bool)
    available[0, [1, 10]] = True
    available[-1, 4] = True
    found = head(*inputs, available)
    whole = scatter(found, batch, 11)
    assert whole.shape == (batch, 11, *SHAPE)
    expected = reference(head, *inputs)
    close(whole[available], expected[available], 1e-5, "wanted")
    assert torch.isneginf(whole[~available]).all()
    assert (scatter(found, batch, 11, fill=-7)[~available] == -7).all()
    gradient = torch.autograd.grad(whole[available].sum(), inputs[1])[0]
    assert gradient.any()


def test_scatter_of_all_copies_nothing():
    head, inputs = setting()
    found = head(*inputs)
    whole = scatter(found, 2, 11)
    assert whole.data_ptr() == found.logits.data_ptr()
    close(whole, reference(head, *inputs), 1e-5, "all")


def test_scatter_of_nothing():
    head, inputs = setting()
    assert torch.isneginf(scatter(head(*inputs, torch.zeros(2, 11, dtype=torch.bool)), 2, 11)).all()


def test_layers_begin_as_those_of_an_ordinary_network():
    """A signal keeps its size through them, and every class is as rare as `RARE` says."""
    torch.manual_seed(3)
    logits, first, second = [], [], []
    for _ in range(20):
        head = UniversalHead(16, 16, embedding=8)
        numbers = head.controller.bias.detach()
        w1, w2 = numbers[:64].view(8, 8), numbers[64:128].view(8, 8)
        x = torch.randn(8, 2000)
        first.append(torch.relu(w1 @ x).square().mean())
        second.append(torch.relu(w2 @ torch.relu(w1 @ x)).square().mean())
        logits.append((numbers[128:136] @ torch.relu(w2 @ torch.relu(w1 @ x)) + numbers[152]).mean())
        assert not numbers[136:152].any()
    assert 0.7 < torch.stack(first).mean() < 1.4  # that of x is 1
    assert 0.6 < torch.stack(second).mean() < 1.6
    assert abs(torch.stack(logits).mean().sigmoid() - RARE) < 0.03


def test_inputs_are_left_alone():
    head, inputs = setting()
    copies = copy.deepcopy([x.detach() for x in inputs])
    head(*inputs).logits.sum().backward()
    assert all(torch.equal(x, before) for x, before in zip(inputs, copies, strict=True))


@pytest.mark.parametrize(("deep", "decoder"), [(30, 16), (32, 20), (0, 16)])
def test_groups_that_do_not_divide_are_refused(deep, decoder):
    with pytest.raises(SpecError, match="do not divide"):
        UniversalHead(deep, decoder)


@pytest.mark.parametrize("which", range(6))
def test_shapes_that_do_not_fit_are_refused(which):
    head, (deep, decoder, embeddings) = setting()
    available = torch.ones(2, 11, dtype=torch.bool)
    wrong = [
        (deep[:, 1:], decoder, embeddings, available),
        (deep, decoder[:1], embeddings, available),
        (deep, decoder[0], embeddings, available),
        (deep, decoder, embeddings[:, 1:], available),
        (deep, decoder, embeddings, available[:, 1:]),
        (deep, decoder, embeddings, available.int()),
    ]
    with pytest.raises(SpecError, match=" here"):
        head(*wrong[which])


@cuda
@pytest.mark.parametrize("wanted", ["all", "two"])
def test_on_a_gpu(wanted):
    head, inputs = setting(shape=(20, 31, 33), device="cuda")
    available = torch.zeros(2, 11, dtype=torch.bool, device="cuda")
    available[:, 3] = True
    compare(head, inputs, None if wanted == "all" else available, tolerance=1e-4)
