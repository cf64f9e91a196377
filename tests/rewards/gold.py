"""The form of the answers that are graded by hand under their gold."""

# Gold, right answers, wrong ones, and wrong ones that are not even mathematics to the grader.
ByGold = tuple[str, list[str], list[str]] | tuple[str, list[str], list[str], list[str]]
