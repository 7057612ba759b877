"""The call of a patched pipeline: its signature, its documentation, and calls that are refused."""

from __future__ import annotations

import inspect
import pydoc

import pytest
from diffusers import DiTPipeline

from dqar import patch_dit_pipeline


class WithoutGuidance(DiTPipeline):
    """A pipeline that always samples at guidance scale 1."""

    def __call__(self, class_labels, **options):  # pyright: ignore[reportIncompatibleMethodOverride] on purpose
        return super().__call__(class_labels, guidance_scale=1.0, **options)


class WithController(DiTPipeline):
    """A pipeline whose call has a parameter of the same name as the library's."""

    def __call__(self, class_labels, guidance_scale=4.0, controller=None):  # pyright: ignore[reportIncompatibleMethodOverride] on purpose
        return super().__call__(class_labels, guidance_scale)


class WithOptions(DiTPipeline):
    """A pipeline whose call takes further options."""

    def __call__(self, class_labels, guidance_scale=1.0, **options):  # pyright: ignore[reportIncompatibleMethodOverride] on purpose
        """Sample images at any guidance scale."""
        return super().__call__(class_labels, guidance_scale, **options)


def of_class(kind, pipe):
    return kind(**pipe.components)


def test_call_keeps_its_signature_and_documentation(pipe):
    stock = inspect.signature(pipe.__call__).parameters
    patch_dit_pipeline(pipe)
    patched = inspect.signature(pipe.__call__).parameters
    assert {**patched} == {**stock, "controller": patched["controller"]}
    assert (patched["controller"].kind, patched["controller"].default) == (
        inspect.Parameter.KEYWORD_ONLY,
        None,
    )
    assert isinstance(pipe, DiTPipeline)
    assert inspect.getdoc(pipe.__call__) == inspect.getdoc(DiTPipeline.__call__)
    shown = pydoc.plain(pydoc.render_doc(pipe))
    assert "controller=None" in shown
    assert "class_labels" in shown


def test_subclass_is_bound_by_its_signature(pipe, images_of):
    stock = images_of(of_class(WithOptions, pipe))
    patched = patch_dit_pipeline(of_class(WithOptions, pipe))
    assert [*inspect.signature(patched.__call__).parameters][-2:] == ["controller", "options"]
    assert isinstance(patched, WithOptions)
    images_of(patched)
    assert patched.dqar.controller.branches == ()
    images_of(patched, guidance_scale=4.0)
    assert patched.dqar.controller.branches == ("cond", "uncond")
    assert stock.shape == images_of(patched).shape


@pytest.mark.parametrize("kind", [WithoutGuidance, WithController])
def test_call_of_other_parameters_is_refused_at_patching(pipe, patches, kind):
    other = of_class(kind, pipe)
    with pytest.raises(ValueError, match=rf"guidance_scale.*Got {kind.__name__}\.__call__ with"):
        patch_dit_pipeline(other)
    assert type(other) is kind
    assert patches(other.transformer) == []
