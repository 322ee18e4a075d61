from cbsae_hub.pipeline.recipe import shipped


def test_a_recipe_is_printed_as_it_is(cbsae, answer):
    for name, text in shipped().items():
        result = cbsae("recipe", name)
        assert (result.exit_code, result.stdout) == (0, text)
    assert answer("recipe", "own-encoder") == {"name": "own-encoder", "text": shipped()["own-encoder"]}


def test_without_a_name_all_are_listed_a_line_each(cbsae, answer):
    lines = cbsae("recipe").stdout.splitlines()
    assert len(lines) == 1 + len(shipped()) and all(len(line) < 120 for line in lines)
    assert answer("recipe")["recipes"].keys() == {
        "clip-b32-datacomp", "dinov2-giant-all-layers", "llava-1.5-7b", "llava-1.5-7b-language", "llava-more-dinov2",
        "own-encoder", "sd-1-4-text", "unclip-2-1",
    }  # fmt: skip
    assert "own-encoder" in lines[6] and "A vision encoder of yours, and a folder of pictures" in lines[6]


def test_others_are_refused_with_those_that_there_are(answer):
    assert "own-encoder" in answer("recipe", "llava", code=1)["error"]
