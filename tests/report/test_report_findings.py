from intriguing.report.findings import strongest


def test_a_few_findings_are_all_shown():
    sections = [("a", "t1", ["1", "2"]), ("b", "t2", ["3"]), ("b", "t3", [])]
    assert strongest(sections) == [("t1", "1"), ("t1", "2"), ("t2", "3")]


def test_of_many_every_part_gives_its_first_and_the_page_keeps_its_order():
    sections = [(part, f"{part}{k}", [f"{part}{k}.1", f"{part}{k}.2"]) for part in "abc" for k in range(4)]
    chosen = strongest(sections, most=5)
    assert chosen == [("a0", "a0.1"), ("a1", "a1.1"), ("b0", "b0.1"), ("b1", "b1.1"), ("c0", "c0.1")]


def test_a_part_with_little_to_say_leaves_its_turn_to_others():
    sections = [("a", "t1", ["x"]), *[("b", f"u{k}", [str(k)] * 2) for k in range(6)]]
    assert [text for _, text in strongest(sections, most=4)] == ["x", "0", "1", "2"]


def test_nothing_found_nothing_shown():
    assert strongest([]) == []
    assert strongest([("a", "t", [])]) == []


def test_a_finding_that_says_the_same_of_another_net_leaves_its_turn():
    said = "of the {} images that lie farthest along a single unit of {} most are of one class, and at random {}%"
    sections = [
        ("a", "f1", [said.format(8, "ConvNet", 30), "more"]),
        ("a", "f2", [said.format(8, "AlexNet", 31), "more"]),
        ("a", "f3", ["units are no purer than directions"]),
        *[("b", f"t{k}", [f"{k}"]) for k in range(4)],
    ]
    assert [anchor for anchor, _ in strongest(sections, most=4)] == ["f1", "f3", "t0", "t1"]
