import pytest

from lucid_events.evidence.differences import Difference, Remark, What


@pytest.mark.parametrize("hidden", ["\n", "\r", "\x1b[2K", "\x07", "\x9b1A", "\u202e", "\u2028"])
def test_what_is_quoted_can_not_write_over_the_verdict(hidden: str) -> None:
    """A difference is one line of visible characters, whatever was put into the evidence."""
    difference = Difference(
        what=What.OBJECT_METADATA,
        session="s1",
        reason=f"a{hidden}s1: holds",
        object=f"o{hidden}",
        expected=hidden,
        found=f"gzip{hidden}",
    )
    for told in (difference, Remark(session="s1", reason=f"a{hidden}s1: holds", object=hidden)):
        assert str(told).isprintable()
        assert hidden.encode("unicode_escape").decode() in str(told)


def test_other_text_stays_as_it_is() -> None:
    """Letters of any language and the signs around them are not escaped."""
    assert str(Remark(session="s1", reason="größer – 大きい")) == "session s1: größer – 大きい"
