"""The line that a job begins with."""

from pipeline.choices import NO_RECORD, Choice, choices_line, guidance_source, sampling_line, traced


def test_each_value_is_named_with_its_source():
    values = {"steps": 50, "guidance_scale": 4.0, "sites": ("attn", "ff"), "seed": 0}
    given = {"steps": None, "guidance_scale": None, "sites": ("attn", "ff"), "seed": 0}
    sources = {"guidance_scale": guidance_source(is_recorded=False), "steps": None}
    assert choices_line("sample", traced(values, given, sources)) == (
        "sample: steps 50 (default), guidance scale 4 (default: the model records none), "
        "sites attn,ff (flag), seed 0 (flag)"
    )


def test_a_model_comes_first_and_an_empty_tuple_is_no_flag():
    line = sampling_line("train", "m", "ab12", {"sites": ()}, {"sites": ()}, {"sites": "traces"})
    assert line == "train: model m with digest ab12 (flag), sites none (traces)"
    assert str(Choice(name="dtype", value="fp32", source=NO_RECORD)).endswith("records none)")
