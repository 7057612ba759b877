"""Code lines: no blanks, comments, docstrings; parts of texts counted apart."""

from benchmarks.code_lines import count

SOURCE = '''"""Module."""

# A comment.
def refuse(name):
    """Refuse a name."""
    raise ValueError(
        f"{name} must be known. "
        "Pass another."
    )  # why
FIELD = 1
"""Description."""
'''


def test_docstrings_comments_and_blank_lines_are_no_code():
    # def, raise, the f-string's name, the second text, the bracket, FIELD.
    assert count(SOURCE)[0] == 6


def test_a_line_of_text_alone_is_left_out_of_the_second_number():
    assert count('x = (\n    "a"\n    "b"\n)\n') == (4, 1)
