from training.emoji_world.paths import publish


def test_files_are_replaced_one_by_one_also_in_sub_folders(tmp_path):
    folder = tmp_path / "model"

    def save(to):
        (to / "unet").mkdir()
        (to / "unet" / "weights").write_text("new")
        (to / "index").write_text("new")

    (folder / "unet").mkdir(parents=True)
    for name in ("README.md", "unet/weights", "unet/README.md"):
        (folder / name).write_text("old")
    publish(folder, save)
    files = {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}
    assert files == {"README.md": "old", "unet/README.md": "old", "unet/weights": "new", "index": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
