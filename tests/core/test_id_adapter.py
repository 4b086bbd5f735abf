"""What one image token makes constant is computed once, and comes out as if computed for every query."""

import pytest
import torch
from diffusers.models.attention_processor import Attention

from stableanimator_core.models import kernels
from stableanimator_core.models.id_adapter import (
    IDAdapterAttnProcessor,
    ImageTokenAttnProcessor,
    _attend,
    add_aligned,
    align_distribution,
)


def layer(processor) -> Attention:
    torch.manual_seed(1)
    return Attention(8, cross_attention_dim=6, heads=2, dim_head=4, processor=processor).double()


def queries(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("tokens", [1, 2, 50])
def test_statistics_of_a_row_that_stands_for_all_tokens(tokens):
    z_face, row = queries(3, tokens, 8), queries(3, 1, 8) + 2
    whole = align_distribution(z_face, row.expand(3, tokens, 8).contiguous())
    torch.testing.assert_close(align_distribution(z_face, row), whole, rtol=0, atol=2e-6)  # float32


@pytest.mark.skipif(kernels.triton is None or torch.cuda.is_available(), reason="Triton's interpreter isn't on")
@pytest.mark.parametrize("tokens", [2, 70])
@pytest.mark.parametrize("scale", [0.4, torch.tensor([0.0, 1.0, 2.5])[:, None, None]], ids=["number", "frames"])
def test_kernels_add_the_face_as_torch_does(monkeypatch, tokens, scale):
    """Also to the few values of a small picture, of which one less is counted, and to rows that lie apart."""
    z_face, z_img = queries(3, 3, tokens).mT.float() + 5, queries(3, 1, 3).float() * 2 + 3
    true = z_img + scale * align_distribution(z_face, z_img)
    called, affine = [], kernels.affine
    monkeypatch.setattr(kernels, "usable", lambda device: True)
    monkeypatch.setattr(kernels, "affine", lambda *given: called.append(1) or affine(*given))
    with torch.no_grad():
        torch.testing.assert_close(add_aligned(z_img, z_face, scale), true, rtol=1e-5, atol=1e-5)
    assert called
    torch.testing.assert_close(add_aligned(z_img, z_face.requires_grad_(), scale), true)
    assert len(called) == 1, "the kernel has no gradient"


@pytest.mark.parametrize("scale", [0, 1.0])
@pytest.mark.parametrize("image_tokens", [1, 3])
def test_spatial_attention_is_that_of_every_query(scale, image_tokens):
    processor = IDAdapterAttnProcessor(8, 6)
    processor.scale = scale
    attn, x, context = layer(processor), queries(2, 5, 8), queries(2, image_tokens + 4, 6)
    seen = context[:, :-4]
    z = _attend(attn.to_q(x), attn.to_k(seen), attn.to_v(seen), attn.heads)
    if scale:
        face = context[:, -4:]
        z = z + align_distribution(
            _attend(attn.to_q(x), processor.id_to_k(face), processor.id_to_v(face), attn.heads), z
        )  # fmt: skip
    torch.testing.assert_close(attn(x, context), attn.to_out[0](z), rtol=0, atol=1e-5)


@pytest.mark.parametrize("image_tokens", [1, 3])
def test_temporal_attention_is_that_of_every_query(image_tokens):
    attn, x, context = layer(ImageTokenAttnProcessor()), queries(6, 5, 8), queries(6, image_tokens + 4, 6)
    seen = context[:, :-4]
    z = _attend(attn.to_q(x), attn.to_k(seen), attn.to_v(seen), attn.heads)
    torch.testing.assert_close(attn(x, context), attn.to_out[0](z), rtol=0, atol=1e-12)


def test_temporal_attention_projects_the_constant_once():
    attn, rows = layer(ImageTokenAttnProcessor()), []
    attn.to_out[0].register_forward_hook(lambda module, args, out: rows.append(args[0].shape[1]))
    assert attn(queries(6, 5, 8), queries(6, 5, 6)).shape == (6, 5, 8)
    assert rows == [1]
