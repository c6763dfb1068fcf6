"""The benchmark of the tokens stage runs and reports a ratio with its peer."""

from benchmarks import tokens


def test_the_stage_is_compared_with_tiktoken_on_the_same_texts() -> None:
    result = tokens.measure(n_documents=40, n_words=50, repeats=1, threads=2)
    assert result["bench"] == "tokens"
    assert result["ratios"].keys() == {"wall", "cpu"}
    for one in (result["ours"], result["peers"]["tiktoken"]):
        assert one["tokens_per_s"] > 0
    assert all(len(text.split(" ")) == 50 for text in tokens.documents(40, 50))
