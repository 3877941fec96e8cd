import pytest

from looptagger.errors import fault, one_line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cannot reach https://me:hunter2@host/a.wav", "cannot reach https://host/a.wav"),
        (
            "403 for https://b.host/a.wav?X-Amz-Credential=AKIAABCDEFGHIJKLMNOP&X-Amz-Signature=5f",
            "403 for https://b.host/a.wav?…",
        ),
        ("key AKIAABCDEFGHIJKLMNOP is not known", "key … is not known"),
        ("{'Authorization': 'AWS4-HMAC-SHA256'}", "{'Authorization': '…'}"),
        ("token=abc123, retry", "token=…, retry"),
        ("what? no such key: loops/a?b.wav", "what? no such key: loops/a?b.wav"),
        ("<_io.BytesIO object at 0x7efe0bf34590>: Error : bad\n header.", "the file: Error : bad header"),
        ("", "str"),
    ],
)
def test_errors_are_one_line_without_secrets(text: str, said: str) -> None:
    assert one_line(text) == said
    assert len(one_line("x " * 9999)) <= 300


def test_a_fault_is_a_sentence_though_nothing_can_be_kept_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    assert fault(ValueError("boom")) == "Internal error: boom. Please report it; what is written stays."
