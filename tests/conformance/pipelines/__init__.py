"""Tiny random pipelines of every served family."""

from tests.conformance.pipelines import (
    allegro,
    cogvideox,
    dit,
    flux,
    hunyuan_dit,
    hunyuan_video,
    latte,
    ltx,
    lumina2,
    mochi,
    pixart,
    qwen_image,
    sana,
    sd3,
    wan,
    z_image,
)
from tests.conformance.pipelines.case import Case

MODULES = (
    *(dit, pixart, sana, sd3, flux, qwen_image, z_image, lumina2, hunyuan_dit, hunyuan_video),
    *(wan, cogvideox, ltx, latte, allegro, mochi),
)
CASES: dict[str, Case] = {case.name: case for module in MODULES for case in module.CASES}
